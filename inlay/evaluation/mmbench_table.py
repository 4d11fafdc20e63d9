"""The public table of MMBench: one row a question, tab-separated, pictures as base64."""

from __future__ import annotations

import base64
import binascii
import csv
import string
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from inlay.core.errors import DataError
from inlay.core.types import ImageRef

NEEDED = ("index", "image", "question", "A", "B")
_LARGEST_CELL = 2**31 - 1  # characters; Python's own limit is 131,072, a picture has more
_LONGEST_REFERENCE = 15  # characters: a shorter picture does not exist


@dataclass(slots=True)
class Row:
    """One row of the table.

    Attributes:
        line: line of the file on which it starts.
        image: base64 text, or the index of the row that has it.
        options: letter -> text, those that the row has.
        answer: letter of the right one, None in test sets.
    """

    line: int
    index: int
    image: str
    question: str
    options: dict[str, str]
    hint: str | None = None
    answer: str | None = None
    category: str | None = None
    l2_category: str | None = None
    split: str | None = None


@dataclass
class Table:
    """A table in the order of its file.

    Attributes:
        letters: the option columns.
        has_answers: False for test sets.
    """

    path: Path
    letters: str
    rows: list[Row]
    has_answers: bool
    _by_index: dict[int, Row] = field(init=False)

    def __post_init__(self) -> None:
        self._by_index = {row.index: row for row in self.rows}

    def image(self, row: Row) -> ImageRef:
        """Return a row's picture, undecoded.

        Raises:
            DataError: its text is not base64, or it refers to a row that does not exist.
        """
        place = f"{self.path}, line {row.line}"
        holder, passed = row, {row.index}
        while (reference := holder.image).isdigit() and len(reference) <= _LONGEST_REFERENCE:
            index = int(reference)
            if index in passed or index not in self._by_index:
                what = "itself" if index in passed else f"row {index}, which the table lacks"
                raise DataError(f"{place}: the picture refers to {what}")
            passed.add(index)
            holder = self._by_index[index]
        try:
            data = base64.b64decode(holder.image, validate=True)
        except (binascii.Error, ValueError) as error:
            raise DataError(f"{place}: the picture is not base64: {error}") from error
        if not data:
            raise DataError(f"{place}: there is no picture")
        return ImageRef(data=data, place=place)


def read_table(path: str | Path) -> Table:
    """Read a table; pictures stay as they are.

    A cell that is empty, or "nan" (what some tools write for an empty one), is absent. Every other
    text stands for itself: an option "None" is an option.

    Raises:
        DataError: with file and line: columns are missing, a row has too many or too few, an index
            is no number or stands twice, an answer is no option of its row.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path}: there is no such file; expected a table of MMBench (.tsv)")
    with closing(_cells(path)) as cells:
        _, header = next(cells, (1, []))
        rows = _rows(path, header, cells)
    if not rows:
        raise DataError(f"{path}: the table has no rows")
    return Table(path, _letters(header), rows, _has_answers(path, rows))


def _letters(header: list[str]) -> str:
    return "".join(letter for letter in string.ascii_uppercase if letter in header)


def _rows(path: Path, header: list[str], cells: Iterator[tuple[int, list[str]]]) -> list[Row]:
    missing = [name for name in NEEDED if name not in header]
    if missing:
        raise DataError(
            f"{path}, line 1: expected tab-separated columns {', '.join(NEEDED)}, ...; there is no "
            f"{', '.join(missing)} in: {', '.join(name[:40] for name in header[:20]) or 'nothing'}"
        )
    rows: list[Row] = []
    seen: dict[int, int] = {}
    for line, values in cells:
        if len(values) != len(header):
            raise DataError(
                f"{path}, line {line}: expected {len(header)} tab-separated values, found "
                f"{len(values)}"
            )
        present = {k: v for k, v in zip(header, values, strict=True) if v not in ("", "nan")}
        row = _row(present, _letters(header), path, line)
        if row.index in seen:
            raise DataError(
                f"{path}, line {line}: index {row.index} stands on line {seen[row.index]}, too"
            )
        seen[row.index] = line
        rows.append(row)
    return rows


def _cells(path: Path) -> Generator[tuple[int, list[str]]]:
    """Yield each row of the file with the line on which it starts."""
    before = csv.field_size_limit(_LARGEST_CELL)
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, delimiter="\t", strict=True)
            line = 1
            while True:
                try:
                    values = next(reader, None)
                except csv.Error as error:
                    raise DataError(
                        f"{path}, line {line}: the row that starts here is malformed: {error}. "
                        'A value with a tab, a line break or a quote stands in "...", and its '
                        "quotes are doubled"
                    ) from error
                if values is None:
                    return
                if values:
                    yield line, values
                line = reader.line_num + 1
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text: {error}") from error
    finally:
        csv.field_size_limit(before)


def _row(present: dict[str, str], letters: str, path: Path, line: int) -> Row:
    index = present.get("index", "")
    if not (index.isascii() and index.isdigit()):
        raise DataError(f"{path}, line {line}: expected a number as index, found {index!r}")
    if "question" not in present:
        raise DataError(f"{path}, line {line}: there is no question")
    options = {letter: present[letter] for letter in letters if letter in present}
    answer = present.get("answer", "").strip() or None
    if answer is not None and answer not in options:
        raise DataError(
            f"{path}, line {line}: the answer {answer!r} is none of the options "
            f"{', '.join(options) or '(there are none)'}"
        )
    return Row(
        line=line,
        index=int(index),
        image=present.get("image", "").strip(),
        question=present["question"],
        options=options,
        hint=present.get("hint"),
        answer=answer,
        category=present.get("category"),
        l2_category=present.get("l2-category"),
        split=present.get("split"),
    )


def _has_answers(path: Path, rows: list[Row]) -> bool:
    """Whether the rows have answers: all of them or none."""
    without = [row for row in rows if row.answer is None]
    if without and len(without) < len(rows):
        raise DataError(
            f"{path}, line {without[0].line}: there is no answer, but other rows have one"
        )
    return not without
