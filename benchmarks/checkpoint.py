"""Writing a checkpoint, against the plain write + fsync of the same bytes. Wall time.

Ours makes the tensors' files, hashes every byte in threads, syncs and renames; the peer writes the
same bytes from memory into one file and syncs it. Both take turns on the same disk.

    python benchmarks/checkpoint.py [--folder ON_THE_DISK_TO_MEASURE] [--megabytes 500]
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from _ratio import header, row

from inlay.engine.checkpoint import Checkpoint, write


def adamw_checkpoint(megabytes: int) -> Checkpoint:
    """Return float32 weights and the two moments of AdamW, 1 M values a tensor."""
    torch.manual_seed(0)
    count = max(1, megabytes // 12)
    names = [f"layers.{i}.weight" for i in range(count)]
    model = {name: torch.randn(1000, 1000) for name in names}
    keys = [f"{name}|{moment}" for name in names for moment in ("exp_avg", "exp_avg_sq")]
    moments = {key: torch.randn(1000, 1000) for key in keys}
    return Checkpoint({"model": model, "optimizer": moments}, {"saved_at_iter": 1}, "")


def wall_seconds(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def raw_write(path: Path, checkpoint: Checkpoint) -> None:
    """Write the bytes of all tensors one after another, then sync."""
    with path.open("wb", buffering=0) as file:
        for tensors in checkpoint.tensors.values():
            for tensor in tensors.values():
                file.write(tensor.numpy())
        os.fsync(file.fileno())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=None)
    parser.add_argument("--megabytes", type=int, default=500)
    parser.add_argument("--repeats", type=int, default=7)
    args = parser.parse_args()
    checkpoint = adamw_checkpoint(args.megabytes)
    ours, raw = [], []
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        path = Path(folder)
        for _ in range(args.repeats):
            raw.append(wall_seconds(lambda: raw_write(path / "raw", checkpoint)))
            (path / "raw").unlink()
            ours.append(wall_seconds(lambda: write(path / "iter_1", checkpoint)))
            shutil.rmtree(path / "iter_1")
    header()
    row("median s, peer: raw write", statistics.median(ours), statistics.median(raw), "<= 1.15")
    row("fastest s, peer: raw write", min(ours), min(raw), "<= 1.15")


if __name__ == "__main__":
    main()
