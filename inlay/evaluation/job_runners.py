"""Where evaluation jobs run: processes of this machine (or, in ``slurm.py``, a cluster).

A runner starts commands and says which have ended. It is called from one thread, which is not the
training's, so it may wait, but never for long.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import psutil

from inlay.core.errors import InlayError

OF_THE_RUN = ("TORCHELASTIC_", "GROUP_", "ROLE_", "MASTER_", "OMPI_", "PMI", "SLURM_", "SBATCH_")
"""How variables begin that make a process one of the training's."""
RANKS = {"RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "NPROC_PER_NODE", "NNODES"}
KEPT = {"SLURM_CONF"}
CLOCK = 5.0
"""Seconds by which the time of a process's start may seem to change when the clock is set."""
GRACE = 3.0
"""Seconds between asking a process to end and ending it."""


class JobError(InlayError):
    """A job could not be started."""


@dataclass(frozen=True)
class End:
    """How a job has ended.

    Attributes:
        problem: what went wrong; None where nothing did, as far as is known.
        is_known: False where nobody can say: its result decides, and without one it is started
            again.
    """

    problem: str | None = None
    is_known: bool = True


class JobRunner(Protocol):
    """Starts commands.

    Attributes:
        max_jobs: how many at once. retry_after: seconds after which a failed start is tried again.
        ends_with_run: whether jobs are ended when the run is stopped.
        limits_time: whether it ends jobs that take too long by itself.
    """

    max_jobs: int
    retry_after: float
    ends_with_run: bool
    limits_time: bool

    def start(self, words: Sequence[str], log: Path, name: str) -> str:
        """Start a command whose output goes to ``log``; return the job's id. Raises JobError."""
        ...

    def ended(self, ids: Iterable[str]) -> dict[str, End]:
        """Return those of ``ids`` that have ended."""
        ...

    def stop(self, job: str) -> None:
        """End a job at once."""
        ...


def clean_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment without what would make a job one of the training's ranks."""
    return {
        name: value
        for name, value in environment.items()
        if name in KEPT or (name not in RANKS and not name.startswith(OF_THE_RUN))
    }


class LocalJobs:
    """Processes of this machine, at low priority. They outlive a run that is killed.

    Args:
        max_jobs: how many at once.
        nice: added to the priority number of the run, 0 to 19: 19 takes only what is left over.
        threads: of each process.
        devices: ``CUDA_VISIBLE_DEVICES`` of the jobs: ``"7"``, or ``""`` for none; None leaves what
            the run has, which the job then shares with it.
    """

    retry_after = 30.0
    ends_with_run = True
    limits_time = False

    def __init__(
        self, max_jobs: int = 1, nice: int = 10, threads: int = 1, devices: str | None = None
    ) -> None:
        self.max_jobs, self.nice = max_jobs, nice
        self.environment = {"OMP_NUM_THREADS": str(threads)}
        if devices is not None:
            self.environment["CUDA_VISIBLE_DEVICES"] = devices
        self._children: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, words: Sequence[str], log: Path, name: str) -> str:
        """Start a process in a session of its own; its id is ``pid@time of its start``."""
        slower = ["nice", "-n", str(self.nice)] if self.nice and shutil.which("nice") else []
        try:
            with log.open("wb") as output:
                child = subprocess.Popen(
                    [*slower, *words],
                    env={**clean_environment(os.environ), **self.environment},
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
        except OSError as error:
            raise JobError(f"cannot start {words[0]}: {error.strerror}") from error
        with suppress(psutil.Error):
            job = f"{child.pid}@{psutil.Process(child.pid).create_time():.2f}"
            self._children[job] = child
            return job
        raise JobError(f"{words[0]} ended at once")

    def ended(self, ids: Iterable[str]) -> dict[str, End]:
        return {job: end for job in ids if (end := self._end(job)) is not None}

    def _end(self, job: str) -> End | None:
        child = self._children.get(job)
        if child is None:  # of an earlier start of the run, which has left no exit code
            return None if _process(job) else End(is_known=False)
        code = child.poll()
        if code is None:
            return None
        if code < 0:
            return End(f"ended by {signal.Signals(-code).name}")
        return End(f"exit code {code}" if code else None)

    def stop(self, job: str) -> None:
        process = _process(job)
        if process is None:
            return
        with suppress(OSError):
            os.killpg(process.pid, signal.SIGTERM)
        end = time.monotonic() + GRACE
        while _process(job) and not self._end(job) and time.monotonic() < end:
            time.sleep(0.05)
        with suppress(OSError):
            os.killpg(process.pid, signal.SIGKILL)


def _process(job: str) -> psutil.Process | None:
    """The living process of an id; None where it has ended, whoever has its number now."""
    number, _, born = job.partition("@")
    try:
        process = psutil.Process(int(number))
        same = abs(process.create_time() - float(born)) < CLOCK
        if same and process.status() != psutil.STATUS_ZOMBIE:
            return process
    except (psutil.Error, ValueError):
        pass
    return None
