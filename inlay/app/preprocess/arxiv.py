"""`inlay preprocess arxiv`: arXiv's metadata become rows for the format ``arxiv``."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Collection, Iterator
from datetime import date
from pathlib import Path
from typing import Any

from inlay.core.errors import DataError
from inlay.core.io import temporary_name
from inlay.data.json_rows import Row, read_jsonl

SHOWN = 10  # bad lines that are named


def preprocess_arxiv(
    source: str,
    target: str,
    categories: Collection[str],
    start: date,
    note: Callable[[str], None],
) -> int:
    """Keep the papers of some categories that were updated on a date or later.

    The file is read and written as a stream.

    Args:
        source: one JSON object a line, with ``categories`` ("cs.AI cs.CL") and ``update_date``
            ("2020-01-31").
        target: a JSON array of the same objects; replaced when it is complete.
        note: told of lines that cannot be read, with file and line.

    Returns:
        How many papers were kept.

    Raises:
        DataError: ``source`` is missing, or no paper was kept; nothing is written then.
    """
    if not Path(source).is_file():
        raise DataError(f"{source}: there is no such file; expected arXiv's metadata, JSON lines")
    counts = {"lines": 0, "bad": 0}
    path = Path(target)
    temporary = temporary_name(path)
    kept = 0
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("w", encoding="utf-8") as file:
            for paper in _chosen(read_jsonl(source), set(categories), start, counts, note):
                file.write(",\n" if kept else "[\n")
                file.write(json.dumps(paper, ensure_ascii=False))
                kept += 1
            file.write("\n]\n")
        if not kept:
            raise DataError(
                f"{source}: no paper of {', '.join(sorted(categories))} since {start} among "
                f"{counts['lines']} lines, {counts['bad']} of them unreadable"
            )
        os.replace(temporary, path)
    except OSError as error:
        raise DataError(f"{target} cannot be written: {error.strerror}") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
    if counts["bad"]:
        note(f"{counts['bad']} of {counts['lines']} lines were left out")
    return kept


def _chosen(
    rows: Iterator[Row],
    categories: set[str],
    start: date,
    counts: dict[str, int],
    note: Callable[[str], None],
) -> Iterator[dict[str, Any]]:
    for row in rows:
        counts["lines"] += 1
        try:
            if _is_chosen(row, categories, start):
                yield row.value
        except DataError as error:
            counts["bad"] += 1
            if counts["bad"] <= SHOWN:
                note(f"{row.file}, line {row.line}: {error}")


def _is_chosen(row: Row, categories: set[str], start: date) -> bool:
    if row.problem is not None:
        raise DataError(row.problem)
    found = row.value if isinstance(row.value, dict) else {}
    names, updated = found.get("categories"), found.get("update_date")
    if not isinstance(names, str) or not isinstance(updated, str):
        raise DataError("expected an object with the texts 'categories' and 'update_date'")
    try:
        return date.fromisoformat(updated) >= start and not categories.isdisjoint(names.split())
    except ValueError:
        raise DataError(f"update_date must be YYYY-MM-DD, found {updated!r:.40}") from None
