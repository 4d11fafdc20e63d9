"""Runs that are broken off, and shared by several processes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from inlay.core.errors import DataError
from inlay.evaluation.ask import Result
from inlay.evaluation.records import Records, complete, read_records, run_items, share


class Squares:
    identity = None

    def __init__(self, count: int, killed_at: int = -1) -> None:
        self.keys = [str(n) for n in range(count)]
        self.killed_at, self.ran = killed_at, []

    def run(self, key: str, model: Any) -> dict[str, Any]:
        if len(self.ran) == self.killed_at:
            raise KeyboardInterrupt
        self.ran.append(key)
        return (
            {"problem": "odd"} if model == "no odd ones" and int(key) % 2 else {"x": int(key) ** 2}
        )

    def score(self, rows: Mapping[str, Any]) -> Result:
        return Result({"sum": sum(row["x"] for row in rows.values())}, [])


def test_a_second_run_goes_on(tmp_path: Path) -> None:
    task = Squares(7, killed_at=4)
    with pytest.raises(KeyboardInterrupt):
        run_items(task, task.keys, None, Records(tmp_path))
    path = tmp_path / "rows_0.jsonl"
    path.write_bytes(path.read_bytes() + b'{"key": "4", "x"')
    task = Squares(7)
    records, seen = Records(tmp_path), []
    run_items(task, task.keys, None, records, seen.append)
    assert task.ran == ["4", "5", "6"] and seen == task.keys
    assert task.score(complete(task, read_records(tmp_path))).scores == {"sum": 91}
    assert read_records(tmp_path) == records.rows


def test_problems_are_tried_again(tmp_path: Path) -> None:
    task = Squares(4)
    run_items(task, task.keys, "no odd ones", Records(tmp_path))
    assert complete(task, read_records(tmp_path))["1"] == {"problem": "odd"}
    again = Squares(4)
    run_items(again, again.keys, None, Records(tmp_path))
    assert again.ran == ["1", "3"]
    assert complete(again, read_records(tmp_path))["3"] == {"x": 9}


def test_processes_share_the_items_and_any_number_goes_on(tmp_path: Path) -> None:
    task = Squares(11)
    parts = [share(task.keys, rank, 3) for rank in range(3)]
    assert [key for part in parts for key in part] == task.keys and {
        len(part) for part in parts
    } == {3, 4}
    for rank in (0, 2):
        run_items(task, parts[rank], None, Records(tmp_path, rank))
    with pytest.raises(DataError, match="of 11 items have no result, the first is 3"):
        complete(task, read_records(tmp_path))
    later = Squares(11)
    for rank in range(2):
        run_items(later, share(later.keys, rank, 2), None, Records(tmp_path, rank))
    assert sorted(later.ran) == sorted(parts[1])
    assert list(complete(later, read_records(tmp_path))) == later.keys


def test_a_line_of_another_process_may_be_half_written(tmp_path: Path) -> None:
    Records(tmp_path, 1).add("a", {"x": 1})
    other = tmp_path / "rows_1.jsonl"
    other.write_bytes(other.read_bytes() + b'{"key": "b"')
    assert Records(tmp_path, 0).rows == {"a": {"x": 1}}
    assert other.read_bytes().endswith(b'"b"'), "only its own process mends a file"
    other.write_bytes(b"[1]\n")
    with pytest.raises(DataError, match=r"rows_1.jsonl, line 1: expected a result with its key"):
        Records(tmp_path, 0)


def test_nothing_could_be_run(tmp_path: Path) -> None:
    task = Squares(2)
    rows = {key: {"problem": "too long"} for key in task.keys}
    with pytest.raises(DataError, match=r"none of 2 items could be run\. The first: too long"):
        complete(task, rows)
