"""What a run has written, read from its work dir alone: the records of all starts, joined.

Reads work dirs of Inlay and of mmengine (XTuner). Files are read from where the last reading
stopped, so that a look at a long run costs no more than what is new in it. Needs no torch.
"""

from __future__ import annotations

import json
import math
import time
from array import array
from bisect import bisect_left
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from inlay.app.runs.folders import RESULTS, SCALARS, start_folders
from inlay.app.runs.log import RunLog
from inlay.app.runs.tail import Tail
from inlay.core.errors import InlayError

LINES = ("training_stats",)
"""Groups of names (before the slash) that belong to training, like names without a slash."""
ELAPSED = "elapsed"
"""Series of seconds spent on the iterations so far, without validation and checkpoints."""


@dataclass
class Series:
    """Values over iterations, ascending. A second value for an iteration replaces the first.

    Args:
        limit: points that are kept; of more, every second, fourth, ... is. None: all.
    """

    limit: int | None = None
    iters: array[int] = field(default_factory=lambda: array("q"))
    values: array[float] = field(default_factory=lambda: array("d"))
    _every: int = 1
    _seen: int = 0

    def add(self, iteration: int, value: float) -> None:
        if self.iters and iteration <= self.iters[-1]:
            place = bisect_left(self.iters, iteration)
            if self.iters[place] == iteration:
                self.values[place] = value
            else:
                self.iters.insert(place, iteration)
                self.values.insert(place, value)
            return
        self._seen += 1
        if (self._seen - 1) % self._every:
            return
        self.iters.append(iteration)
        self.values.append(value)
        if self.limit is not None and len(self.iters) > self.limit:
            self.iters, self.values = self.iters[::2], self.values[::2]
            self._every *= 2

    def cut(self, iteration: int) -> None:
        """Forget what comes after ``iteration``."""
        place = bisect_left(self.iters, iteration + 1)
        del self.iters[place:], self.values[place:]

    def last(self) -> tuple[int, float] | None:
        return (self.iters[-1], self.values[-1]) if self.iters else None

    def lowest(self) -> tuple[int, float] | None:
        """Iteration and value of the lowest finite value."""
        finite = [(v, i) for i, v in zip(self.iters, self.values, strict=True) if math.isfinite(v)]
        return min(finite)[::-1] if finite else None


@dataclass
class Start:
    """One start of a run: a folder ``<timestamp>`` in the work dir."""

    folder: Path
    log: RunLog
    scalars: Tail
    trained: bool = False


class RunFiles:
    """The records of a work dir, of all its starts in their order.

    A resumed run repeats iterations that an earlier start had trained after its last checkpoint:
    the earlier records of these are superseded.

    Args:
        folder: the work dir.
        keys: of training records, which to keep as ``lines``.
        limit: of lines, see ``Series``.

    Attributes:
        lines: series of training records. points: of validations and evaluations, by name.
        last: the newest training record.
        gap: seconds of training between the last two records.
        known: every name that was seen.
        bad_lines: lines that were no record.
    """

    def __init__(self, folder: Path, keys: Collection[str], limit: int | None = None) -> None:
        self.folder, self.keys, self.limit = folder, frozenset(keys), limit
        self.starts: list[Start] = []
        self.lines: dict[str, Series] = {}
        self.points: dict[str, Series] = {}
        self.last: dict[str, Any] = {}
        self.run_name: str | None = None
        self.known: set[str] = set()
        self.bad_lines = 0
        self.gap = 0.0
        self._results: dict[Path, float] = {}
        self._trouble: str | None = None

    def read(self, seconds: float = math.inf) -> bool:
        """Read what is new, for about ``seconds``. Returns whether that was all of it."""
        until = time.monotonic() + seconds
        self._find_starts()
        for start in self.starts:
            for log_lines in start.log.tail.blocks():
                start.log.take(log_lines)
                if time.monotonic() > until:
                    return False
            for lines in start.scalars.blocks():
                for record in self._decode(lines):
                    self._take(start, record)
                if time.monotonic() > until:
                    return False
        self._read_results()
        return True

    def unread(self) -> tuple[int, int]:
        """Bytes of all files that are still to be read, and bytes of all."""
        tails = [tail for s in self.starts for tail in (s.log.tail, s.scalars)]
        sizes = [tail.size() for tail in tails]
        return sum(s - t.at for s, t in zip(sizes, tails, strict=True)), sum(sizes)

    def problems(self) -> list[str]:
        """Files that could not be read, and why."""
        tails = [tail for s in self.starts for tail in (s.log.tail, s.scalars)]
        found = [f"{tail.path.name}: {tail.problem}" for tail in tails if tail.problem]
        return found + ([f"{self.folder}: {self._trouble}"] if self._trouble else [])

    def _find_starts(self) -> None:
        have = {start.folder for start in self.starts}
        try:
            found = start_folders(self.folder)
            self._trouble = None
        except OSError as error:  # deleted, or on a network disk that is away
            found, self._trouble = [], error.strerror
        for folder in found:
            if folder not in have:
                log = RunLog(Tail(folder / f"{folder.name}.log"))
                self.starts.append(Start(folder, log, Tail(folder / SCALARS)))

    def _decode(self, lines: Sequence[bytes]) -> Iterator[dict[str, Any]]:
        lines = [line for line in lines if line.strip()]
        try:
            # One call for all is twice as fast as a call for each.
            values = json.loads(b"[" + b",".join(lines) + b"]")
        except (ValueError, RecursionError):
            values = [_value(line) for line in lines]
        for value in values:
            if isinstance(value, dict):
                yield value
            else:
                self.bad_lines += 1

    def _take(self, start: Start, record: dict[str, Any]) -> None:
        place = record.get("step" if record.get("axis") else "iter", record.get("step"))
        if type(place) is not int:
            self.bad_lines += 1
            return
        if isinstance(name := record.get("run_name"), str):
            self.run_name = name
        self.known.update(record)
        if "loss" in record and "iter" in record:
            self._take_trained(start, place, record)
        else:
            self._take_points(place, record)

    def _take_trained(self, start: Start, iteration: int, record: dict[str, Any]) -> None:
        came_from = start.log.resumed_at
        if not start.trained:
            start.trained = True
            self._supersede(iteration - 1 if came_from is None else min(came_from, iteration - 1))
        seconds = number(record.get("time")) or 0.0
        before = self.last.get("iter", 0)
        if before < iteration:
            self.gap = seconds * (iteration - before)
        self.last = record
        if ELAPSED in self.keys:
            self._add_elapsed(iteration, seconds, came_from or 0)
        self._add_lines(iteration, record)

    def _add_elapsed(self, iteration: int, seconds: float, came_from: int) -> None:
        series = self.lines.setdefault(ELAPSED, Series(self.limit))
        at, so_far = series.last() or (0, 0.0)
        series.add(iteration, so_far + seconds * (iteration - max(at, came_from)))

    def _add_lines(self, iteration: int, record: dict[str, Any]) -> None:
        for key in self.keys & record.keys():
            if (value := number(record[key])) is not None:
                self.lines.setdefault(key, Series(self.limit)).add(iteration, value)

    def _take_points(self, place: int, record: dict[str, Any]) -> None:
        """Validations, evaluations and statistics. Those of mmengine have names without a group."""
        foreign = "iter" not in record and "axis" not in record
        self._add_lines(place, {k: v for k, v in record.items() if k.startswith(LINES)})
        for key, value in record.items():
            name = f"val/{key}" if foreign and "/" not in key else key
            group, slash, _ = name.partition("/")
            if key in ("iter", "step") or not slash or group in LINES:
                continue
            self.add_point(name, place, value)

    def add_point(self, name: str, place: int, value: Any) -> None:
        """Add a result to ``points``, if it is a number."""
        if (found := number(value)) is None:
            return
        self.points.setdefault(name, Series()).add(place, found)

    def newest(self, group: str) -> dict[str, Any] | None:
        """The newest results of a group of names (``val``, ``eval``), beside their ``iter``."""
        last = {n: s.last() for n, s in self.points.items() if n.partition("/")[0] == group}
        place = max((point[0] for point in last.values() if point), default=None)
        if place is None:
            return None
        values = {n: point[1] for n, point in last.items() if point and point[0] == place}
        return {"iter": place, **values}

    def _supersede(self, iteration: int) -> None:
        """Forget what earlier starts trained after ``iteration``. Evaluated checkpoints count."""
        for key, series in [*self.lines.items(), *self.points.items()]:
            if not key.startswith("eval"):
                series.cut(iteration)

    def _read_results(self) -> None:
        """Results of evaluation jobs that the run itself has not logged."""
        found = sorted((self.folder / RESULTS).glob("step_*.json"))
        if not found:
            return
        from inlay.evaluation.job_files import read_result

        for path in found:
            try:
                changed = path.stat().st_mtime
                if self._results.get(path) == changed:
                    continue
                self._results[path] = changed
                result = read_result(path)
                step = int(path.stem.removeprefix("step_"))
            except (InlayError, OSError, ValueError):
                continue  # half written, or not one of ours: the run itself reports it
            self.known.update(result)
            for name, value in result.items():
                self.add_point(name, step, value)


def number(value: Any) -> float | None:
    """Return a value of a record as a number; those that JSON lacks stand in it as text."""
    if isinstance(value, str):
        return float(value) if value.lstrip("-").lower() in ("nan", "inf", "infinity") else None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value)
    except OverflowError:
        return None


def _value(line: bytes) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None
