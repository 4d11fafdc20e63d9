"""Which rows of a stream belong to training and which to validation, without looking ahead."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from inlay.data.encode_rows import RowEncoder
from inlay.data.json_rows import Row
from inlay.data.parts import Split
from inlay.data.report import Report
from inlay.data.split import held_out

Rows = Iterator[tuple[int, Row]]
"""Rows, each with the number of its source."""


class _Head(NamedTuple):
    """The head of a stream, which is held out.

    Attributes:
        rows: how many rows it has.
        keys: of its pictures, and of conversations without any.
        report: what became of its rows, from the view of training.
    """

    rows: int
    keys: frozenset[int]
    report: Report


class StreamSplit:
    """Takes one part of a stream's rows.

    With a fraction every row is told apart by its keys. With a size the head of the stream, up to
    so many conversations, is held out, and training leaves out what has a key in common with it.

    Args:
        split: the part.
        encoders: of the sources, by number; they are made to leave out the other part's rows.
    """

    def __init__(self, split: Split, encoders: Sequence[RowEncoder]) -> None:
        self._split = split
        self._encoders = encoders
        self._head: _Head | None = None
        if split.is_whole:
            return
        for encoder in encoders:
            if split.fraction:
                encoder.leave_out = self._other_side
            elif split.part == "train":
                encoder.leave_out = self._in_head

    def rows(self, start: Callable[[], Rows], is_whole_pass: bool) -> tuple[Rows, Report]:
        """Return the rows of one pass, and an account of those that are passed over unread.

        Args:
            start: begins a pass over all rows.
            is_whole_pass: False: the pass is a resumed one, and the account empty.
        """
        rows, report = start(), Report()
        if self._split.is_whole or self._split.size is None:
            return rows, report
        is_val = self._split.part == "val"
        if self._head is None:
            self._head = self._read_head(rows, self._split.size)
            rows = start() if is_val else rows
        elif not is_val:
            rows = itertools.islice(rows, self._head.rows, None)
        if is_val:
            return itertools.islice(rows, self._head.rows), report
        if is_whole_pass:
            report.add(self._head.report)
        return rows, report

    def _read_head(self, rows: Rows, size: int) -> _Head:
        report, keys, count = Report(), set[int](), 0
        for source, row in rows:
            report.rows += 1
            with report.losing(row):
                keys.update(_keys(*self._encoders[source].keys(row)))
                count += 1
            if count == size:
                break
        report.dropped["held out for validation"] = count
        return _Head(report.rows, frozenset(keys), report)

    def _in_head(self, value: int, pictures: list[int]) -> str | None:
        assert self._head is not None
        shared = not self._head.keys.isdisjoint(_keys(value, pictures))
        return "also in the validation split" if shared else None

    def _other_side(self, value: int, pictures: list[int]) -> str | None:
        assert self._split.fraction is not None
        held = held_out(np.array(_keys(value, pictures), np.uint64), self._split.fraction)
        if held.any() != held.all():
            return "pictures on both sides of the split"
        if held.all() == (self._split.part == "val"):
            return None
        return "held out for validation" if held.all() else "in the training split"


def _keys(value: int, pictures: list[int]) -> list[int]:
    """What keeps a conversation on a side: its pictures, or else its text."""
    return pictures or [value]
