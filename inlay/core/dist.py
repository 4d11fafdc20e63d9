"""Which process of how many this is, from the environment that torchrun and other launchers set."""

from __future__ import annotations

import os
import re
from collections.abc import MutableMapping

from inlay.core.errors import InlayError

DEFAULT_PORT = "29500"


def rank() -> int:
    """Global rank of this process, 0 when it runs alone."""
    return int(os.environ.get("RANK", "0"))


def local_rank() -> int:
    """Rank among the processes of this machine: the index of its GPU."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def world_size() -> int:
    """Number of processes of the run."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def adopt(launcher: str, local_rank: int | None, env: MutableMapping[str, str]) -> None:
    """Set what torchrun sets, from what another launcher has set.

    Args:
        launcher: ``"pytorch"`` (torchrun, ``torch.distributed.launch``, ``accelerate launch``),
            ``"slurm"`` (``srun``) or ``"mpi"`` (Open MPI).
        local_rank: as ``torch.distributed.launch`` hands it over; the environment's goes first.
        env: the environment, which is changed.

    Raises:
        InlayError: this process was not started that way.
    """
    if local_rank is not None:
        env.setdefault("LOCAL_RANK", str(local_rank))
    if launcher == "slurm":
        _adopt(env, launcher, "srun", "SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID")
        nodes = env.get("SLURM_STEP_NODELIST") or env.get("SLURM_NODELIST", "")
        env.setdefault("MASTER_ADDR", env.get("ADDR") or first_host(nodes) or "127.0.0.1")
        # The same for all processes of a job, and another one for the next job.
        job = 20000 + int(env.get("SLURM_JOB_ID", "9500")) % 10000
        env.setdefault("MASTER_PORT", env.get("PORT") or str(job))
    elif launcher == "mpi":
        names = ("RANK", "SIZE", "LOCAL_RANK")
        _adopt(env, launcher, "mpirun", *(f"OMPI_COMM_WORLD_{n}" for n in names))
        address = env.get("MASTER_ADDR") or env.get("ADDR")
        if (
            not address
            and env.get("OMPI_COMM_WORLD_LOCAL_SIZE", env["WORLD_SIZE"]) != env["WORLD_SIZE"]
        ):
            raise InlayError(
                "--launcher mpi: the processes are on several machines, and which one rank 0 is on "
                "is not known. Say it: mpirun -x MASTER_ADDR=HOST ..."
            )
        env.setdefault("MASTER_ADDR", address or "127.0.0.1")
        env.setdefault("MASTER_PORT", env.get("PORT") or DEFAULT_PORT)
    else:
        _adopt(env, launcher, "torchrun", "RANK", "WORLD_SIZE", "LOCAL_RANK")


def _adopt(
    env: MutableMapping[str, str], launcher: str, command: str, rank: str, size: str, local: str
) -> None:
    """Copy rank, number of ranks and local rank; what is set already must not differ."""
    missing = [name for name in (rank, size, local) if name not in env]
    if missing:
        raise InlayError(
            f"--launcher {launcher}: {', '.join(missing)} is not set, so this process was not "
            f"started by {command}. Leave --launcher out, or start it with {command}"
        )
    env.update(RANK=env[rank], WORLD_SIZE=env[size], LOCAL_RANK=env[local])


def first_host(nodes: str) -> str:
    """Return the first host of a list as slurm writes it: ``gpu-[003-007,9],login`` is ``gpu-003``.

    Brackets may follow one another (``rack[1-2]node[01-04]``); an empty list gives an empty name.
    """
    head = re.match(r"(?:[^,\[]|\[[^\]]*\])*", nodes)
    return re.sub(r"\[([^\],-]+)[^\]]*\]", r"\1", head[0] if head else "")
