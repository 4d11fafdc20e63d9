"""Ratios within one run: CPU seconds of ours and of a peer, taken in turns on the same machine."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Sequence
from typing import Any


def cpu_seconds(function: Callable[[], Any]) -> float:
    """Return the CPU seconds (user + system, all threads) that a call takes in this process."""
    start = time.process_time()
    function()
    return time.process_time() - start


def child_cpu_seconds(command: Sequence[str]) -> float:
    """Return the CPU seconds of a fresh process from start to exit, interpreter included.

    Raises:
        subprocess.CalledProcessError: the process failed.
    """
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise subprocess.CalledProcessError(child.returncode, command)
    return usage.ru_utime + usage.ru_stime


def best_in_turns(measures: Sequence[Callable[[], float]], repeats: int) -> list[float]:
    """Return the smallest value of each measure over ``repeats`` rounds.

    The measures take turns, so that a slow minute of the machine meets all of them; the smallest
    counts, because other processes can only add.
    """
    rounds = [[measure() for measure in measures] for _ in range(repeats)]
    return [min(values) for values in zip(*rounds, strict=True)]


def header() -> None:
    """Print the column names of ``row``."""
    print(f"{'name':<44} {'ours':>12} {'peer':>12} {'ratio':>9}  target")


def row(name: str, ours: float, peer: float, target: str) -> None:
    """Print one result: ours, the peer's, and ours divided by the peer's."""
    print(f"{name:<44} {ours:>12.4g} {peer:>12.4g} {ours / peer:>9.4f}  {target}", flush=True)
