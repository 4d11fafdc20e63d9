"""Rows as a sheet: .xlsx where openpyxl is installed, which submission servers take, else .tsv."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from inlay.core.io import write_bytes

_LONGEST_CELL = 32_767  # characters, of .xlsx


def write_sheet(stem: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    """Write rows with the columns of the first one.

    Texts stay texts: one that starts with ``=`` is no formula, and characters that XML cannot hold
    are left out.

    Args:
        stem: path without its ending.

    Returns:
        The file: ``stem`` with ``.xlsx``, or with ``.tsv`` where openpyxl is not installed.
    """
    try:
        data, ending = _xlsx(rows), ".xlsx"
    except ImportError:
        data, ending = _tsv(rows), ".tsv"
    path = stem.with_name(stem.name + ending)
    write_bytes(path, data)
    return path


def _xlsx(rows: Sequence[Mapping[str, Any]]) -> bytes:
    from openpyxl import Workbook
    from openpyxl.cell.cell import ILLEGAL_CHARACTERS_RE

    book = Workbook()
    sheet = book.active
    for line, values in enumerate([list(rows[0]), *(row.values() for row in rows)], 1):
        for column, value in enumerate(values, 1):
            cell = sheet.cell(line, column)
            if isinstance(value, str):
                cell.value = ILLEGAL_CHARACTERS_RE.sub("", value)[:_LONGEST_CELL]
                cell.data_type = "s"
            else:
                cell.value = value
    buffer = io.BytesIO()
    book.save(buffer)
    return buffer.getvalue()


def _tsv(rows: Sequence[Mapping[str, Any]]) -> bytes:
    buffer = io.StringIO(newline="")
    writer = csv.DictWriter(buffer, list(rows[0]), delimiter="\t", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue().encode("utf-8", "replace")
