"""A hook of a user whose run needs memory by the size of its batches."""

from __future__ import annotations

import resource
from pathlib import Path
from typing import Any

import torch

CUDA = (
    "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.11 GiB of "
    "which 1.02 GiB is free. Process 4711 has 30.50 GiB memory in use. Including non-PyTorch "
    "memory, this process has 47.59 GiB memory in use. Of the allocated memory 41.00 GiB is "
    "allocated by PyTorch, and 5.25 GiB is reserved by PyTorch but unallocated. If reserved but "
    "unallocated memory is large try setting PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True"
)
"""What torch says of a GPU that is full."""


class Hungry:
    """Takes ``each`` bytes for every item of a micro-batch, from iteration ``since`` (from 0) on.

    Args:
        fails: in place of taking memory, say what a full GPU says, for batches of so many items
            or more.
        in_val: not in training, but in validation.
        rank: of the one that is hungry; None: all are.
    """

    def __init__(
        self,
        each: int = 0,
        since: int = 0,
        fails: int | None = None,
        in_val: bool = False,
        rank: int | None = None,
    ) -> None:
        self.each, self.since, self.fails, self.in_val = each, since, fails, in_val
        self.rank = rank

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        if batch_idx >= self.since and not self.in_val:
            self._eat(runner)

    def before_val_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        if self.in_val:
            self._eat(runner)

    def _eat(self, runner: Any) -> None:
        if self.rank not in (None, runner.rank):
            return
        size = runner.train_dataloader.batch_size
        if self.fails is not None and size >= self.fails:
            raise torch.OutOfMemoryError(CUDA)
        torch.empty(size * self.each, dtype=torch.uint8)


def limit_memory(more: int) -> None:
    """Let this process take ``more`` bytes of addresses, and not one above."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + more
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
