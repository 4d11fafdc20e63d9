"""The submission file, read back by other means than it was written."""

from __future__ import annotations

import csv
import sys
import zipfile
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from inlay.evaluation.sheet import write_sheet

ROWS: list[dict[str, Any]] = [
    {"question": "What\nis it?", "A": "red", "B": None, "prediction": "=1+1", "index": 7},
    {"question": 'a "tab"\t <b>', "A": "蓝", "B": "x", "prediction": "A", "index": 1_000_007},
]


def xlsx_cells(path: Path) -> list[list[str]]:
    """Rows of the first sheet as texts, five columns; a formula fails."""
    space = "{http://schemas.openxmlformats.org/spreadsheetml/2006/main}"
    with zipfile.ZipFile(path) as book:
        sheet = ElementTree.fromstring(book.read("xl/worksheets/sheet1.xml"))
    assert not list(sheet.iter(f"{space}f")), "a formula"
    rows = []
    for row in sheet.iter(f"{space}row"):
        texts = {cell.get("r", "")[0]: "".join(cell.itertext()) for cell in row}
        rows.append([texts.get(column, "") for column in "ABCDE"])
    return rows


def tsv_cells(path: Path) -> list[list[str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file, delimiter="\t"))


EXPECTED = [
    ["question", "A", "B", "prediction", "index"],
    ["What\nis it?", "red", "", "=1+1", "7"],
    ['a "tab"\t <b>', "蓝", "x", "A", "1000007"],
]


def test_rows_come_back(tmp_path: Path) -> None:
    path = write_sheet(tmp_path / "mmbench_result", ROWS)
    assert path.parent == tmp_path and path.stem == "mmbench_result"
    assert {".xlsx": xlsx_cells, ".tsv": tsv_cells}[path.suffix](path) == EXPECTED


def test_without_openpyxl_there_is_a_tsv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openpyxl", None)
    path = write_sheet(tmp_path / "mmbench_result", ROWS)
    assert path.name == "mmbench_result.tsv" and tsv_cells(path) == EXPECTED


def test_characters_that_a_sheet_cannot_hold(tmp_path: Path) -> None:
    path = write_sheet(tmp_path / "s", [{"prediction": "a\x00b\x1bc" + "x" * 40_000}])
    assert path.stat().st_size > 0
    if path.suffix == ".xlsx":
        assert xlsx_cells(path)[1][0].startswith("abcxxx")
