"""A function on several gloo ranks, in forked children that share what is already imported."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist


def on_ranks(folder: Path, count: int, work: Callable[[int], Any]) -> list[Any]:
    """Return what ``work(rank)`` returns on each rank (tensors and plain values).

    Args:
        folder: for the files of the exchange.
    """
    pids = [_start(folder, rank, count, work) for rank in range(count)]
    codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
    said = "".join(p.read_text() for p in sorted(folder.glob("error_*")))
    assert codes == [0] * count, said
    return [torch.load(folder / f"result_{rank}", weights_only=True) for rank in range(count)]


def _start(folder: Path, rank: int, count: int, work: Callable[[int], Any]) -> int:
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        return pid
    try:
        os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(count))
        store = dist.FileStore(str(folder / "store"), count)
        dist.init_process_group("gloo", store=store, rank=rank, world_size=count)
        torch.save(work(rank), folder / f"result_{rank}")
        dist.destroy_process_group()
        os._exit(0)
    except BaseException:
        (folder / f"error_{rank}").write_text(f"rank {rank}:\n{traceback.format_exc()}")
        os._exit(1)
