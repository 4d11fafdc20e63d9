"""How a run is doing: judged by its lock, by what it wrote last, and by when. Needs no torch."""

from __future__ import annotations

import fcntl
import os
import re
import struct
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inlay.app.runs.files import RunFiles, number
from inlay.app.runs.folders import LOCK, POINTER, RESULTS
from inlay.app.runs.log import Warned

STARTING = 600.0
"""Seconds that a run without a record may be silent: models load, data are indexed."""
QUIET = 60.0
GAPS = 10
"""A run is stalled when it has been silent for ``QUIET`` seconds and for ``GAPS`` times as long as
between its last two records, and for 3 times as long as its last validation took."""
CURVE = 4096
"""Points that are kept of a curve, whatever the length of the run."""
LENGTH = re.compile(r"^train_cfg = dict\(.*\bmax_(epochs|iters)=(\d+)", re.MULTILINE)
ENDS = {"stopped": "stopped", "ended": "died"}
"""States by the first word of what the log says about the end."""
GROUPS = ("val", "test", "eval")

_LINUX = not sys.platform.startswith("darwin")
FLOCK = "hhqqi4x" if _LINUX else "qqihh"
"""``struct flock``: type, whence, start, length, pid; a Mac has start, length and pid first."""


@dataclass
class Owner:
    """Who holds the lock of a work dir.

    Attributes:
        known: whether the lock could be asked; foreign runs have none.
        pid: of the process that holds it; 0 in another container; None: nobody.
    """

    known: bool
    pid: int | None = None


@dataclass
class Status:
    """A run as it stands. Times in seconds, memory in MB.

    Attributes:
        state: ``running``, ``finished``, ``stopped``, ``died`` or ``stalled``. detail: what is to
            be said of it.
        quiet_seconds: since the run last wrote anything.
        last: its last training record.
        results: the newest validation and evaluation: group -> ``iter`` and values by name.
        jobs: evaluation jobs that wait, run or have failed.
        unread: share of the files that has not been read yet.
        best: iteration and value of the lowest validation loss.
    """

    work_dir: str
    name: str | None
    state: str
    detail: str | None
    pid: int | None
    starts: int
    iter: int
    total_iters: int | None
    eta_seconds: float | None
    quiet_seconds: float
    checkpoint: str | None
    last: dict[str, Any]
    results: dict[str, dict[str, Any]]
    jobs: list[dict[str, Any]]
    warned: Warned | None
    problems: list[str]
    unread: float
    best: tuple[int, float] | None

    def as_json(self) -> dict[str, Any]:
        """Values for scripts; numbers that JSON lacks are text, as in ``scalars.json``."""
        found = {**vars(self), "warned": vars(self.warned) if self.warned else None}
        return {key: _strict(value) for key, value in found.items()}


class Watched:
    """A run that is looked at again and again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.files = RunFiles(folder, {"loss"}, limit=CURVE)
        self._lengths: dict[Path, int | None] = {}

    def look(self, seconds: float) -> Status:
        """Read what is new, for about ``seconds``, and judge."""
        owner = lock_owner(self.folder)  # first: what a run writes at its end comes before it ends
        everything = self.files.read(seconds)
        files, unread = self.files, 0.0
        if not everything:
            left, size = files.unread()
            unread = left / max(size, 1)
        done = files.last.get("iter", 0)
        total = self._total()
        quiet = max(time.time() - self._last_write(), 0.0)
        pointer = _text(self.folder / POINTER)
        state, detail = ("running", None) if unread else self._judge(owner, done, total, quiet)
        step_time = number(files.last.get("time"))
        is_alive = state in ("running", "stalled")
        left_iters = None if total is None else max(total - done, 0)
        loss = files.points.get("val/loss")
        return Status(
            work_dir=str(self.folder),
            name=files.run_name,
            state=state,
            detail=detail,
            pid=owner.pid if owner.pid and owner.pid > 0 else None,
            starts=len(files.starts),
            iter=done,
            total_iters=total,
            eta_seconds=left_iters * step_time if is_alive and left_iters and step_time else None,
            quiet_seconds=quiet,
            checkpoint=Path(pointer).name if pointer else None,
            last=files.last,
            results={g: newest for g in GROUPS if (newest := files.newest(g))},
            jobs=self._jobs(),
            warned=next((s.log.warned for s in reversed(files.starts) if s.log.warned), None),
            problems=files.problems(),
            unread=unread,
            best=loss.lowest() if loss else None,
        )

    def _judge(
        self, owner: Owner, done: int, total: int | None, quiet: float
    ) -> tuple[str, str | None]:
        """State and detail; see ``Status``."""
        is_new = not self.files.starts or not self.files.starts[-1].trained
        limit = self._patience(is_new, owner)
        if owner.pid is not None:
            if is_suspended(owner.pid):
                return "stalled", f"process {owner.pid} is suspended"
            if quiet > limit:
                return "stalled", f"nothing written for {duration(quiet)}"
            return "running", "starting" if is_new else None
        if end := self._end():
            return ENDS.get(end.split()[0], "finished"), None if end == "finished" else end
        if not owner.known:
            if total is not None and done >= total:
                return "finished", None
            if quiet <= limit:
                return "running", None
            return "died", f"nothing written for {duration(quiet)}"
        if total is not None and done >= total:
            return "died", "after the last iteration, before the end of the run"
        return "died", "its process is gone" if done else "before its first record"

    def _patience(self, is_new: bool, owner: Owner) -> float:
        validation = self.files.points.get("val/time")
        last = validation.last() if validation else None
        expected = max(QUIET, GAPS * self.files.gap, 3 * last[1] if last else 0.0)
        return max(expected, STARTING) if is_new or not owner.known else expected

    def _end(self) -> str | None:
        """How the run ended by its log; ``inlay test`` in its work dir is no start of it."""
        for start in reversed(self.files.starts):
            if start.log.end or start.trained:
                return start.log.end
        return None

    def _total(self) -> int | None:
        """Length of the run in iterations."""
        for start in reversed(self.files.starts):
            if start.log.total_iters is not None:
                return start.log.total_iters
            if start.log.iters_per_epoch is not None and (epochs := self._epochs(start.folder)):
                return start.log.iters_per_epoch * epochs
        return None

    def _epochs(self, start: Path) -> int | None:
        if start not in self._lengths:
            match = LENGTH.search(_text(start / "vis_data" / "config.py") or "")
            self._lengths[start] = int(match[2]) if match and match[1] == "epochs" else None
        return self._lengths[start]

    def _last_write(self) -> float:
        """When the run last wrote anything, in seconds of the clock of its disk."""
        paths = [self.folder, self.folder / POINTER, self.folder / LOCK]
        if self.files.starts:
            newest = self.files.starts[-1]
            paths += [newest.folder, newest.log.tail.path, newest.scalars.path]
        times = []
        for path in paths:
            try:
                times.append(path.stat().st_mtime)
            except OSError:
                continue
        return max(times, default=0.0)

    def _jobs(self) -> list[dict[str, Any]]:
        if not (self.folder / RESULTS).is_dir():
            return []
        from inlay.evaluation.job_files import read_jobs

        return [vars(job) for job in read_jobs(self.folder) if job.state != "done"]


def lock_owner(work_dir: Path) -> Owner:
    """Ask who holds the lock, without taking it: a run that starts now must not be refused."""
    try:
        with open(work_dir / LOCK, "rb") as lock:
            wanted = fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0
            if not _LINUX:
                wanted = 0, 0, 0, fcntl.F_WRLCK, os.SEEK_SET
            answer = fcntl.fcntl(lock, fcntl.F_GETLK, struct.pack(FLOCK, *wanted))
            found = struct.unpack(FLOCK, answer)
    except OSError:
        return Owner(known=False)
    kind, pid = (found[0], found[4]) if _LINUX else (found[3], found[2])
    return Owner(known=True, pid=None if kind == fcntl.F_UNLCK else pid)


def is_suspended(pid: int) -> bool:
    """Whether a process of this machine was stopped by Ctrl-Z or SIGSTOP."""
    import psutil

    try:
        return pid > 0 and psutil.Process(pid).status() == psutil.STATUS_STOPPED
    except psutil.Error:
        return False


def duration(seconds: float) -> str:
    """Return ``"45 s"``, ``"12 min"``, ``"3.5 h"`` or ``"2.0 days"``."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    if seconds < 6000:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 172_800 else f"{seconds / 86_400:.1f} days"


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return None


def _strict(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _strict(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_strict(inner) for inner in value]
    is_odd = isinstance(value, float) and (value != value or abs(value) == float("inf"))
    return str(value) if is_odd else value
