"""Which process of how many this is, from the environment that torchrun and slurm set."""

from __future__ import annotations

import os


def rank() -> int:
    """Global rank of this process, 0 when it runs alone."""
    return int(os.environ.get("RANK", "0"))


def local_rank() -> int:
    """Rank among the processes of this machine: the index of its GPU."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def world_size() -> int:
    """Number of processes of the run."""
    return int(os.environ.get("WORLD_SIZE", "1"))
