"""The process behind ``Apart``: ``python -m inlay.engine.trackers.worker``."""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from inlay.engine.trackers.base import RunInfo

LAST_SECONDS = 30.0
"""Time to close, where the run was killed."""


def main() -> None:
    """Answer calls from standard input until ``close``, or until the run is gone."""
    # The run ends us; a signal to all of a job's processes is for the run alone.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what packages print is not an answer
    tracker: Any = None
    for method, *arguments in _calls(sys.stdin):
        try:
            if method == "open":
                tracker = _make(*arguments[:2])
                arguments = [Path(arguments[2]), RunInfo(**arguments[3])]
            answer: dict[str, Any] = {"note": getattr(tracker, method)(*arguments)}
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}", "network": _is_network(error)}
        try:
            print(json.dumps(answer), file=answers, flush=True)
        except BrokenPipeError:
            continue  # the run is gone
        if method == "close":
            return
    _last(tracker)


def _calls(lines: TextIO) -> Iterator[list[Any]]:
    return (json.loads(line) for line in lines)


def _make(place: str, settings: dict[str, Any]) -> Any:
    module, _, name = place.partition(":")
    return getattr(importlib.import_module(module), name)(**settings)


def _is_network(error: Exception) -> bool:
    """Whether it may go better later."""
    names = {kind.__name__ for kind in type(error).__mro__}
    return isinstance(error, OSError) or bool(names & {"CommError", "TransportError", "Timeout"})


def _last(tracker: Any) -> None:
    """The run was killed: keep what it has said, but do not outlive it for long."""
    timer = threading.Timer(LAST_SECONDS, os.killpg, (os.getpgid(0), signal.SIGKILL))
    timer.daemon = True
    timer.start()
    if tracker is not None:
        tracker.close()


if __name__ == "__main__":
    main()
