"""What stands between a run and its trackers: none of them can stop it, slow it or hold it up."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from inlay.engine.trackers.base import Pictures, Row, RunInfo

BUFFER = 10_000
"""Records that wait for a tracker; what comes when they are full is left out."""
OFFLINE, ANSWERED, SILENT, SHARE = 60.0, 20.0, 2.0, 0.01
"""Seconds that ``close`` waits for a tracker without a network; for one that has opened; for one
that has not: at least, and as a share of the time since it was asked to."""
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 60.0
"""Seconds before a record is sent again when the network failed; doubled each time."""


class Guarded:
    """A tracker that can do no harm.

    One that ``writes_files`` is called at once. Any other is called in a thread of its own, behind
    a bounded buffer: nobody waits for it. What the network refuses (``OSError``) is sent again
    until the run closes; what fails otherwise is left out. Each tracker is warned about once.

    Args:
        tracker: any ``Tracker``. ``is_offline = True`` says that it needs no network: it is given
            time to finish. ``abandon()`` is called when its time is up.
        logger: of the run.
    """

    def __init__(self, tracker: Any, logger: logging.Logger) -> None:
        self.tracker, self.logger = tracker, logger
        self.name = type(tracker).__name__
        self._waits = not getattr(tracker, "writes_files", False)
        self._queue: queue.Queue[tuple[str, tuple[Any, ...]]] = queue.Queue(BUFFER)
        self._closing, self._done = threading.Event(), threading.Event()
        self._opened = self._warned = False
        self._lost = 0

    def open(self, folder: Path, info: RunInfo) -> None:
        self._began = time.monotonic()
        if self._waits:
            threading.Thread(target=self._serve, name=self.name, daemon=True).start()
        self._call("open", folder, info)

    def write(self, record: dict[str, Any]) -> None:
        self._call("write", dict(record))

    def write_table(self, name: str, rows: Sequence[Row], step: int) -> None:
        self._call("write_table", name, list(rows), step)

    def write_images(self, name: str, images: Pictures, step: int) -> None:
        self._call("write_images", name, list(images), step)

    def close(self, at_most: float | None = None) -> None:
        """End the tracker; wait for what is on its way to it, but not for long.

        Args:
            at_most: seconds, for a run that was told to go.
        """
        if not self._waits:
            self._attempt("close", ())
            return
        self._closing.set()
        try:
            self._queue.put_nowait(("close", ()))
        except queue.Full:
            with suppress(queue.Empty):
                self._queue.get_nowait()
                self._lost += 1
            self._queue.put_nowait(("close", ()))
        seconds = self._patience() if at_most is None else min(self._patience(), at_most)
        if self._done.wait(seconds):
            if self._lost:
                self._warn(f"{self._lost} records were left out")
            return
        unsent = self._lost + max(self._queue.qsize() - 1, 0)
        self._warn(f"it did not answer within {seconds:.0f} s, {unsent} records were not sent")
        if hasattr(self.tracker, "abandon"):
            self.tracker.abandon()

    def _patience(self) -> float:
        if getattr(self.tracker, "is_offline", False):
            return OFFLINE
        if self._opened:
            return ANSWERED
        return max(SILENT, SHARE * (time.monotonic() - self._began))

    def _call(self, method: str, *arguments: Any) -> None:
        if not self._waits:
            self._attempt(method, arguments)
            return
        try:
            self._queue.put_nowait((method, arguments))
        except queue.Full:
            self._lost += 1
            self._warn(f"it does not keep up: {BUFFER} records wait, further ones are left out")

    def _serve(self) -> None:
        """Hand over one record after the other, in order, until the last one: ``close``."""
        method = ""
        while method != "close":
            method, arguments = self._queue.get()
            pause = FIRST_PAUSE
            while not self._attempt(method, arguments):
                # Once more when the run closes, then no longer.
                was_closing = self._closing.is_set()
                self._closing.wait(pause)
                pause = min(2 * pause, LONGEST_PAUSE)
                if was_closing:
                    self._lost += 1
                    break
        self._done.set()

    def _attempt(self, method: str, arguments: tuple[Any, ...]) -> bool:
        """Call the tracker. False where it may go better later."""
        try:
            note = getattr(self.tracker, method)(*arguments)
        except Exception as error:  # whatever a tracker does, the run goes on
            if isinstance(error, OSError) and self._waits and method != "close":
                self._warn(f"{_said(error)}. Its records are kept, and sent when it answers")
                return False
            self._lost += 1
            self._warn(_said(error))
            return True
        if method == "open":
            self._opened = True
            if note:
                self._warn(note)
        return True

    def _warn(self, text: str) -> None:
        if not self._warned:
            self._warned = True
            self.logger.warning(
                "%s: %s. The run goes on; its numbers are in scalars.json", self.name, text
            )


def _said(error: Exception) -> str:
    return (str(error) or type(error).__name__).rstrip(".")
