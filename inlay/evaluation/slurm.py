"""Evaluation jobs in the queue of a cluster."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from inlay.core.io import write_text
from inlay.evaluation.job_runners import End, JobError, clean_environment

ALIVE = ("PENDING", "RUNNING", "COMPLETING", "CONFIGURING", "SUSPENDED", "REQUEUED", "RESIZING")
"""States of sacct: squeue, asked just before, may not have heard of a new job."""


class SlurmJobs:
    """Jobs of slurm: a script for each, submitted with ``sbatch``. They outlive the run.

    Before the first one is submitted, bash and ``sbatch --test-only`` read its script.

    Args:
        options: of sbatch, such as ``["--partition=gpu", "--gres=gpu:1"]``.
        setup: lines of bash before the command (``module load``, ``source .venv/bin/activate``).
        time_limit: of a job, seconds.
        ask_every: seconds between two questions to slurm, about all jobs at once.
        max_jobs: how many are with slurm at once.
    """

    ends_with_run = False
    limits_time = True
    patience = 60.0
    """Seconds that a command of slurm may take."""

    def __init__(
        self,
        options: Sequence[str] = (),
        setup: Sequence[str] = (),
        time_limit: float = 4 * 3600,
        ask_every: float = 60.0,
        max_jobs: int = 16,
    ) -> None:
        self.options, self.setup, self.max_jobs = list(options), list(setup), max_jobs
        self.time_limit, self.ask_every = time_limit, ask_every
        self.retry_after = ask_every
        self._checked = False
        self._asked = -ask_every
        self._ended: dict[str, End] = {}

    def start(self, words: Sequence[str], log: Path, name: str) -> str:
        """Write ``<log>.sbatch`` beside the log and submit it; return slurm's number."""
        script = log.with_suffix(".sbatch")
        write_text(script, self.script(words, log, name))
        if not self._checked:
            self._check(script)
            self._checked = True
        said = self._slurm(["sbatch", "--parsable", str(script)])
        job = said.strip().partition(";")[0]
        if not job.isdecimal():
            raise JobError(f"sbatch gave no job id: '{said.strip()}'")
        return job

    def script(self, words: Sequence[str], log: Path, name: str) -> str:
        """The text of a job's script."""
        minutes, seconds = divmod(max(int(self.time_limit), 60), 60)
        output = str(log.absolute()).replace("%", "%%")
        lines = [f"--job-name={name}", f'--output="{output}"', f"--time={minutes}:{seconds:02}"]
        return "\n".join(
            [
                "#!/bin/bash",
                *(f"#SBATCH {line}" for line in [*lines, *self.options]),
                "set -e",
                f"cd {shlex.quote(str(Path.cwd()))}",
                *self.setup,
                f"exec {shlex.join(words)}\n",
            ]
        )

    def _check(self, script: Path) -> None:
        if shutil.which("sbatch") is None:
            raise JobError("there is no sbatch here: submit from a node of the cluster")
        self._slurm(["bash", "-n", str(script)])
        self._slurm(["sbatch", "--test-only", str(script)])

    def ended(self, ids: Iterable[str]) -> dict[str, End]:
        known = list(ids)
        if time.monotonic() - self._asked >= self.ask_every:
            self._asked = time.monotonic()
            if asked := [job for job in known if job not in self._ended]:
                self._ask(asked)
        return {job: self._ended[job] for job in known if job in self._ended}

    def _ask(self, jobs: list[str]) -> None:
        """Ask for all jobs at once; what slurm does not answer is asked again next time."""
        names = ",".join(jobs)
        try:
            said = self._slurm(["squeue", "--noheader", "--format=%i", f"--jobs={names}"])
        except JobError as error:
            if "Invalid job id" not in str(error):  # so it says when all have ended long ago
                raise
            said = ""
        gone = sorted(set(jobs) - set(said.split()))
        if not gone:
            return
        states = self._states(gone)
        for job in gone:
            state = states.get(job, "")
            if not state.startswith(ALIVE):
                self._ended[job] = _end_of(state)

    def _states(self, jobs: list[str]) -> dict[str, str]:
        """Final states by job; none where the cluster keeps no accounts."""
        words = ["sacct", "-n", "-X", "-P", "--format=JobIDRaw,State,ExitCode"]
        try:
            said = self._slurm([*words, f"--jobs={','.join(jobs)}"])
        except JobError:
            return {}
        rows = [line.split("|") for line in said.splitlines()]
        return {row[0]: " ".join(row[1:]) for row in rows if len(row) > 1}

    def stop(self, job: str) -> None:
        with suppress(JobError):
            self._slurm(["scancel", job])

    def _slurm(self, words: list[str]) -> str:
        try:
            done = subprocess.run(
                words,
                env=clean_environment(os.environ),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=self.patience,
            )
        except subprocess.TimeoutExpired as error:
            raise JobError(f"{words[0]} did not answer in {self.patience:g} s") from error
        except OSError as error:
            raise JobError(f"{words[0]}: {error.strerror}") from error
        if done.returncode:
            raise JobError(f"{words[0]}: {(done.stderr or done.stdout).strip()}")
        return done.stdout


def _end_of(state: str) -> End:
    """What a state of sacct means; an empty one stands for no account."""
    if state.startswith("COMPLETED"):
        return End()
    if not state or state.startswith(("PREEMPTED", "NODE_FAIL", "BOOT_FAIL")):
        return End(is_known=False)
    return End(f"slurm: {state}")
