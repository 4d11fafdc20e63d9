"""What the log of a start says that its records do not: length, warnings, how it ended."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from inlay.app.runs.tail import Tail

LINE = re.compile(rb"(?:\d{4}/)?(\d\d/\d\d \d\d:\d\d:\d\d) - \S+ - ([A-Z]+) - (.*)")
"""A line of a log of Inlay, or of mmengine (which writes the year, too)."""
BY_ITER = re.compile(rb"Iter\(train\) +\[ *\d+/(\d+)\]")
BY_EPOCH = re.compile(rb"Epoch\(train\) +\[ *\d+\]\[ *\d+/(\d+)\]")
RESUMED = re.compile(rb"(?:esumed from.*iter_|esumed epoch: \d+, iter: )(\d+)\b")
STOPPED = re.compile(rb"(stopped by .+) at iteration \d+$")
FINISHED = re.compile(rb"all \d+ iterations are done$")
FAILED = re.compile(rb"ended by (\w+)")
LEVELS = (b"WARNING", b"ERROR", b"CRITICAL")


@dataclass
class Warned:
    """A warning or an error: when (``mm/dd HH:MM:SS``), ``level``, and its first line."""

    time: str
    level: str
    text: str


@dataclass
class RunLog:
    """The log of one start.

    Attributes:
        total_iters: length of the run, or iters_per_epoch: of an epoch, whichever it tells.
        resumed_at: iteration of the checkpoint that it continues, or None.
        end: ``"finished"``, ``"stopped by ..."``, ``"ended by ..."`` (an error), or None where the
            log does not say.
        warned: the last warning.
    """

    tail: Tail
    total_iters: int | None = None
    iters_per_epoch: int | None = None
    resumed_at: int | None = None
    end: str | None = None
    warned: Warned | None = None

    def take(self, lines: Iterable[bytes]) -> None:
        """Read more lines. Those without a date continue the one before them."""
        for line in lines:
            match = LINE.match(line)
            if match is None:
                continue
            when, level, text = match.groups()
            if level in LEVELS:
                self.warned = Warned(when.decode(), level.decode(), text.decode(errors="replace"))
                if failed := FAILED.match(text):
                    self.end = failed[0].decode()
            elif level == b"INFO":
                self._take_info(text)

    def _take_info(self, text: bytes) -> None:
        if match := BY_ITER.match(text):
            self.total_iters = int(match[1])
        elif match := BY_EPOCH.match(text):
            self.iters_per_epoch = int(match[1])
        elif match := STOPPED.match(text):
            self.end = match[1].decode(errors="replace")
        elif FINISHED.search(text):
            self.end = "finished"
        elif match := RESUMED.search(text):
            self.resumed_at = int(match[1])
