"""What trackers cost a run: its wall time with them, against that of files alone.

Each run makes the same updates of a fixed length (it sleeps). Counted are that length and the time
inside the trackers' calls, opening and closing included: a busy machine, which stretches any sleep,
does not decide. The servers of the blackholed ones accept connections and never answer.

    python benchmarks/trackers.py [--seconds 150] [NAME...]
"""

from __future__ import annotations

import argparse
import logging
import os
import socket
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from _ratio import header, row

from inlay.engine.trackers import (
    Guarded,
    LocalVisBackend,
    RunInfo,
    TrackioVisBackend,
    WandbVisBackend,
)

UPDATE = 0.05  # s
LOGGER = logging.getLogger("benchmark")


def black_hole() -> str:
    """Start a server that accepts and never answers; return its address."""
    server = socket.create_server(("127.0.0.1", 0))
    kept: list[socket.socket] = []

    def accept() -> None:
        while True:
            kept.append(server.accept()[0])

    threading.Thread(target=accept, daemon=True).start()
    return f"http://127.0.0.1:{server.getsockname()[1]}"


def run_seconds(seconds: float, make: Callable[[], list[Any]]) -> float:
    """Return the length of a run of ``seconds`` that logs every update, trackers included."""
    inside = 0.0

    def timed(call: Callable[..., None], *arguments: Any) -> None:
        nonlocal inside
        began = time.perf_counter()
        call(*arguments)
        inside += time.perf_counter() - began

    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        os.environ["TRACKIO_DIR"] = f"{folder}/trackio"
        trackers = [Guarded(tracker, LOGGER) for tracker in make()]
        info = RunInfo(f"{time.time_ns()}", "benchmark")
        for tracker in trackers:
            timed(tracker.open, Path(folder) / "vis_data", info)
        for step in range(int(seconds / UPDATE)):
            time.sleep(UPDATE)
            for tracker in trackers:
                timed(tracker.write, {"step": step, "loss": 1 / (1 + step), "lr": 1e-3})
        for tracker in trackers:
            timed(tracker.close)
        return seconds + inside


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=150)
    parser.add_argument("names", nargs="*", help="rows to measure; all by default")
    args = parser.parse_args()
    seconds = args.seconds
    hole = black_hole()
    os.environ |= {"WANDB_API_KEY": "0" * 40, "WANDB_SILENT": "true"}
    kinds: dict[str, Callable[[], Any]] = {
        "wandb, offline": lambda: WandbVisBackend({"mode": "offline"}),
        "trackio, local": TrackioVisBackend,
        "wandb, blackholed": lambda: WandbVisBackend({"settings": {"base_url": hole}}),
        "trackio, blackholed": lambda: TrackioVisBackend(
            {"server_url": f"{hole}?write_token=none"}
        ),
    }
    alone = run_seconds(seconds, lambda: [LocalVisBackend()])
    header()
    for name in args.names or kinds:
        make = kinds[name]
        ours = run_seconds(seconds, lambda make=make: [LocalVisBackend(), make()])
        row(name, ours, alone, "<= 1.02")


if __name__ == "__main__":
    main()
