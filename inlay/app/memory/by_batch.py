"""`inlay memory`: peak memory by batch size, each measured in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from inlay.app.memory.shortage import PATTERN as OUT_OF_MEMORY
from inlay.app.train import checked_config
from inlay.core.errors import InlayError

KILLED = -9
"""Exit code of a process that the system ends for its memory."""
ACCUMULATE = 2
"""Micro-batches of a measured update, where the run accumulates: gradients of the first one are
there while the second one runs, as in every further one."""


@dataclass(frozen=True)
class Row:
    """One batch size.

    Attributes:
        batch_size: samples (or packs) of a micro-batch. peak_mb: MB of the process, or of its GPU;
            None where it did not fit.
        update_s: seconds of an update of one or two micro-batches.
        note: what there is to say, or an empty string.
    """

    batch_size: int
    peak_mb: int | None = None
    update_s: float | None = None
    note: str = ""


def measure(config: str, sizes: Sequence[int], cfg_options: Sequence[str] = ()) -> Iterator[Row]:
    """Yield a row for each batch size, smallest first, until one does not fit into memory.

    Two updates are made: only in the second one the optimizer's state is there from the start.

    Raises:
        ConfigError: the config has a problem.
        InlayError: a child failed for another reason than memory; says what it said.
    """
    cfg = checked_config(config, cfg_options)
    accumulate = min(cfg["optim_wrapper"].get("accumulative_counts", 1), ACCUMULATE)
    for size in sorted(set(sizes)):
        fixed = [
            f"train_dataloader.batch_size={size}",
            f"optim_wrapper.accumulative_counts={accumulate}",
        ]
        row = _measure_one(size, config, [*cfg_options, *fixed])
        yield row
        if row.peak_mb is None:
            return


def _measure_one(size: int, config: str, options: Sequence[str]) -> Row:
    words = ["train", config, "--dry-run", "--updates", "2", "--gpus", "1", "--json"]
    done = _inlay([*words, "--cfg-options", *options])
    if done.returncode == KILLED or (done.returncode and OUT_OF_MEMORY.search(done.stderr)):
        return Row(size, note="out of memory")
    if done.returncode:
        raise InlayError(f"batch size {size}: the run failed\n{done.stderr.strip()[-2000:]}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    items = result["items"]
    note = f"the data fill only {items} of {size}" if items is not None and items < size else ""
    return Row(size, round(result["peak_mb"]), result["update_s"], note)


def _inlay(words: Sequence[str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "inlay", *words]
    return subprocess.run(command, env={**os.environ}, capture_output=True, text=True)


def table(rows: Sequence[Row]) -> str:
    """The rows as text."""
    lines = ["batch size   peak memory   an update"]
    for row in rows:
        peak = "-" if row.peak_mb is None else f"{row.peak_mb:,} MB"
        seconds = "-" if row.update_s is None else f"{row.update_s:.2f} s"
        lines.append(f"{row.batch_size:>10}   {peak:>11}   {seconds:>9}   {row.note}".rstrip())
    return "\n".join(lines)
