"""Results on disk while an evaluation runs, and the loop that fills them: it can be broken off at
any time, and several processes share the work."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from inlay.core.errors import DataError
from inlay.evaluation.ask import Result

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image

Piece = tuple[str, bool]
"""A piece of a caption, and whether it names something: then it has a mask."""


class Pointer(Protocol):
    """A model that answers and points (``app.grounder.open_grounder``)."""

    def answer(
        self, pictures: list[Image], text: str, max_new_tokens: int, prefix: str = ""
    ) -> str:
        """Return the answer to ``text`` behind RGB ``pictures``; what follows ``prefix``, where the
        answer begins with it."""
        ...

    def segment(
        self,
        image: Image,
        pieces: Sequence[Piece],
        is_text: bool = False,
        prompt: str | None = None,
    ) -> tuple[NDArray[np.bool_], NDArray[np.float32]]:
        """Return masks bool ``[M, H, W]`` at the picture's size and scores ``[M]``, one for each
        piece that names something; with ``is_text`` the pieces are stretches of one text. They
        answer ``prompt``, or that of the training."""
        ...


class ItemTask(Protocol):
    """What a model is asked, item by item, and how that is scored.

    The model is a ``Pointer`` for tasks in ``evaluation.POINTING``, else ``ask.Answer``.

    Attributes:
        keys: names of its items, unique, in the order of the data.
        identity: JSON values that change with what is asked under the same key.
    """

    keys: Sequence[str]
    identity: Any

    def run(self, key: str, model: Any) -> dict[str, Any]:
        """Return what the model makes of an item, as JSON values; with ``problem``, a text, where
        it can make nothing of it."""
        ...

    def score(self, rows: Mapping[str, Mapping[str, Any]]) -> Result:
        """Score what ``run`` returned for every key."""
        ...


class Records:
    """Rows on disk, one JSON line each, appended as they come; a file for each process.

    Args:
        folder: made at the first row. A last line of this process that a kill cut short is removed.
        rank: of this process.

    Attributes:
        rows: by key, those of all processes of earlier runs and those of this one.

    Raises:
        DataError: a line that is not a row.
    """

    def __init__(self, folder: Path, rank: int = 0) -> None:
        self.path = folder / f"rows_{rank}.jsonl"
        if self.path.is_file():
            data = self.path.read_bytes()
            whole = data[: data.rfind(b"\n") + 1]
            if len(whole) < len(data):
                self.path.write_bytes(whole)
        self.rows = read_records(folder)

    def add(self, key: str, row: Mapping[str, Any]) -> None:
        """Keep a row; it is in the file when this returns."""
        self.rows[key] = dict(row)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        line = json.dumps({"key": key, **row}, ensure_ascii=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")


def read_records(folder: Path) -> dict[str, dict[str, Any]]:
    """Return the rows of all processes by key; a last line without an end is not yet one.

    Raises:
        DataError: a line that is not a row.
    """
    rows: dict[str, dict[str, Any]] = {}
    for path in sorted(folder.glob("rows_*.jsonl")):
        data = path.read_bytes()
        for number, line in enumerate(data[: data.rfind(b"\n") + 1].splitlines(), 1):
            try:
                row = json.loads(line)
                key = row.pop("key")
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise DataError(
                    f"{path}, line {number}: expected a result with its key, found {line[:80]!r}. "
                    "Remove the file to evaluate everything again"
                ) from error
            if "problem" not in row or key not in rows:
                rows[key] = row
    return rows


def share(keys: Sequence[str], rank: int, world_size: int) -> Sequence[str]:
    """Return this process's part of the items: neighbours, which often share a picture."""
    start, stop = (len(keys) * edge // world_size for edge in (rank, rank + 1))
    return keys[start:stop]


def run_items(
    task: ItemTask,
    keys: Iterable[str],
    model: Any,
    records: Records,
    on_item: Callable[[str], None] | None = None,
) -> None:
    """Run items in order; those with a row are not run again, unless they had a problem.

    Args:
        on_item: called with every key, those with a row included.
    """
    for key in keys:
        if key not in records.rows or "problem" in records.rows[key]:
            records.add(key, task.run(key, model))
        if on_item is not None:
            on_item(key)


def complete(task: ItemTask, rows: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return the rows of the task's items in order.

    Raises:
        DataError: an item has no row, or none could be run.
    """
    missing = [key for key in task.keys if key not in rows]
    if missing:
        raise DataError(
            f"{len(missing)} of {len(task.keys)} items have no result, the first is {missing[0]}: "
            "run the same command again"
        )
    found = {key: dict(rows[key]) for key in task.keys}
    why = problems(found)
    if why and len(why) == len(found):
        first = next(iter(why.values()))
        raise DataError(f"none of {len(found)} items could be run. The first: {first}")
    return found


def problems(rows: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Return why items could not be run, by key."""
    return {key: row["problem"] for key, row in rows.items() if "problem" in row}
