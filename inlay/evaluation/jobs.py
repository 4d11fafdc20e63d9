"""Evaluations that go on beside a training run, tended by a thread of their own."""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from inlay.core.errors import DataError
from inlay.core.io import write_json
from inlay.core.secrets import redact
from inlay.evaluation.job_files import (
    DONE,
    FAILED,
    FOLDER,
    RESULT,
    RUNNING,
    WAITING,
    Job,
    Outcome,
    last_line,
    read_jobs,
    read_result,
    weights_of,
)
from inlay.evaluation.job_runners import End, JobError, JobRunner

ATTEMPTS = 3
"""How often a job is started before it is given up."""


class EvaluationJobs:
    """Tends the jobs of a run in a thread of its own; whoever calls it never waits.

    Args:
        work_dir: of the run.
        runner: starts commands.
        command: words of the evaluation; ``{checkpoint}``, ``{step}``, ``{result}`` and
            ``{work_dir}`` in them are filled in.
        hands_on: the command may end before there is a result, which others bring.
        time_limit: seconds after which a job counts as frozen and is ended.
        say: takes lines about what goes wrong with the tending itself.
        pause: seconds between two looks.

    Attributes:
        outcomes: filled by the thread, emptied by the caller.
    """

    def __init__(
        self,
        work_dir: Path,
        runner: JobRunner,
        command: Sequence[str],
        *,
        hands_on: bool = False,
        time_limit: float = 4 * 3600,
        say: Callable[[str], None] = print,
        pause: float = 0.5,
    ) -> None:
        self.work_dir, self.runner, self.command = Path(work_dir), runner, list(command)
        self.folder = self.work_dir / FOLDER
        self.hands_on, self.time_limit, self.say, self.pause = hands_on, time_limit, say, pause
        self.outcomes: deque[Outcome] = deque()
        self._jobs = {job.step: job for job in read_jobs(work_dir)}
        self._submitted: deque[tuple[int, str]] = deque()
        self._sizes: dict[int, tuple[int, int]] = {}
        self._read: dict[int, tuple[int, int]] = {}
        self._said: set[str] = set()
        self._not_before = 0.0
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> list[Job]:
        """Begin to tend; return the jobs of earlier starts that are still open.

        What was found by then is reported again, for the caller to tell what is new.
        """
        (self.folder / "jobs").mkdir(parents=True, exist_ok=True)
        earlier = list(self._jobs.values())
        for job in earlier:
            if job.state == DONE:
                self._report(job)
        self._thread = threading.Thread(target=self._tend, name="evaluation jobs", daemon=True)
        self._thread.start()
        return [job for job in earlier if job.is_open]

    def submit(self, step: int, checkpoint: str) -> None:
        """Have the checkpoint of an iteration evaluated. What is there already is not repeated."""
        self._submitted.append((step, checkpoint))

    def unfinished(self) -> int:
        """How many evaluations are still to come."""
        return len(self._submitted) + sum(job.is_open for job in list(self._jobs.values()))

    def close(self, stop: bool = False) -> None:
        """Stop tending. ``stop``: end what runs on this machine; a later start begins it again."""
        self._closing.set()
        if self._thread is not None:
            self._thread.join(timeout=30)
        if stop and self.runner.ends_with_run:
            for job in self._jobs.values():
                if job.state == RUNNING and job.id:
                    self.runner.stop(job.id)
                    job.attempts -= 1
                    self._put(job, WAITING)

    # -- in the thread -----------------------------------------------------------------------

    def _tend(self) -> None:
        while True:
            try:
                self._look()
            except Exception as error:  # a full disk, slurm that does not answer: not our end
                self._warn(f"evaluation jobs: {type(error).__name__}: {error}; trying again")
            if self._closing.wait(self.pause):
                return

    def _look(self) -> None:
        while self._submitted:
            self._accept(*self._submitted[0])
            self._submitted.popleft()
        running = [job for job in self._jobs.values() if job.state == RUNNING]
        ended = self.runner.ended([job.id for job in running if job.id])
        for job in running:
            if job.id is None or job.id in ended:
                self._finish(job, ended.get(job.id or "", End()))
            elif not self.runner.limits_time and time.time() - job.started > self.time_limit:
                self.runner.stop(job.id)
                self._fail(job, f"ended after {self.time_limit:g} s, its time limit")
        started = sum(j.state == RUNNING and j.id is not None for j in self._jobs.values())
        room = self.runner.max_jobs - started
        waiting = sorted(s for s, job in self._jobs.items() if job.state == WAITING)
        if time.monotonic() >= self._not_before:
            for step in waiting[: max(room, 0)]:
                self._begin(self._jobs[step])
        self._find_results()

    def _accept(self, step: int, checkpoint: str) -> None:
        """Make a job of a checkpoint, unless these weights have one."""
        try:
            weights = weights_of(self.work_dir / checkpoint)
        except DataError as error:
            self.outcomes.append(Outcome(step, checkpoint=checkpoint, problem=str(error)))
            return
        job = self._jobs.get(step)
        if job is not None and job.weights == weights:
            if job.state == DONE and self._report(job):
                return
            if job.is_open:
                return
            if job.state == FAILED and job.attempts >= ATTEMPTS:
                self._fail(job, job.problem or "")  # said again: this start has not heard it
                return
        elif job is not None and job.state == RUNNING and job.id:
            self.runner.stop(job.id)  # of weights that are no more
        attempts = job.attempts if job is not None and job.weights == weights else 0
        self._put(Job(step, checkpoint, weights, attempts=attempts), WAITING)

    def _begin(self, job: Job) -> None:
        result, log = self._result(job.step), self.folder / f"step_{job.step}.log"
        checkpoint = self.work_dir / job.checkpoint
        try:
            if weights_of(checkpoint) != job.weights:
                raise DataError(f"{checkpoint} holds other weights by now")
        except DataError as error:
            self._fail(job, str(error))
            return
        places = {
            "{checkpoint}": str(checkpoint.absolute()),
            "{step}": str(job.step),
            "{result}": str(result.absolute()),
            "{work_dir}": str(self.work_dir.absolute()),
        }
        result.unlink(missing_ok=True)
        job.attempts += 1
        job.started = time.time()
        try:
            words = [_filled(word, places) for word in self.command]
            job.id = self.runner.start(words, log, f"inlay-eval-{job.step}")
        except JobError as error:
            if job.attempts >= ATTEMPTS:
                self._fail(job, str(error))
                return
            self._warn(f"evaluation of step {job.step}: {error}; trying again")
            self._not_before = time.monotonic() + self.runner.retry_after
            self._put(job, WAITING)
            return
        self._put(job, RUNNING)

    def _finish(self, job: Job, end: End) -> None:
        """A job has ended: its result counts, unless it says that it has failed."""
        said = last_line(self.folder / f"step_{job.step}.log")
        if end.problem is not None:
            self._fail(job, f"{end.problem}{said}")
            return
        try:
            read_result(self._result(job.step))
        except DataError as error:
            if self.hands_on and end.is_known and self._in_time(job):
                if job.id is not None:  # others go on with it
                    job.id = None
                    self._put(job, RUNNING)
            elif not end.is_known and job.attempts < ATTEMPTS:
                self._put(job, WAITING)
            else:
                self._fail(job, f"{error}{said}")
            return
        self._report(job)
        self._put(job, DONE)

    def _in_time(self, job: Job) -> bool:
        return time.time() - job.started <= self.time_limit

    def _fail(self, job: Job, problem: str) -> None:
        job.problem = redact(problem)
        self.outcomes.append(Outcome(job.step, job.weights, job.checkpoint, problem=job.problem))
        self._put(job, FAILED)

    def _report(self, job: Job) -> bool:
        """Hand out the result of a job; False where its file cannot be read any more."""
        path = self._result(job.step)
        try:
            metrics = read_result(path)
            self._read[job.step] = _state(path)
        except (DataError, OSError):
            return False
        self.outcomes.append(Outcome(job.step, job.weights, self._judged(job), metrics))
        return True

    def _judged(self, job: Job) -> str | None:
        """The name of the checkpoint, unless other weights have taken its place since."""
        try:
            same = weights_of(self.work_dir / job.checkpoint) == job.weights
        except DataError:
            same = True  # deleted since; what was kept of it goes by its name
        return job.checkpoint if same else None

    def _find_results(self) -> None:
        """Hand out results that no job of ours has brought, once nobody writes them any more."""
        sizes = {}
        for entry in os.scandir(self.folder):
            match = RESULT.match(entry.name)
            if match is None or int(match[1]) in self._jobs:
                continue
            step = int(match[1])
            sizes[step] = state = _state(Path(entry.path))
            if self._sizes.get(step) != state or self._read.get(step) == state:
                continue
            self._read[step] = state
            try:
                self.outcomes.append(Outcome(step, metrics=read_result(entry.path)))
            except DataError as error:
                self._warn(f"{error}. It is read again when it changes")
        self._sizes = sizes

    def _put(self, job: Job, state: str) -> None:
        """Note how a job stands, here and on disk, where the next start finds it."""
        job.state = state
        if state != FAILED:
            job.problem = None
        self._jobs[job.step] = job
        write_json(self.folder / "jobs" / f"step_{job.step}.json", asdict(job))

    def _result(self, step: int) -> Path:
        return self.folder / f"step_{step}.json"

    def _warn(self, text: str) -> None:
        if text not in self._said:
            self._said.add(text)
            self.say(redact(text))


def _filled(word: str, places: dict[str, str]) -> str:
    for name, value in places.items():
        word = word.replace(name, value)
    return word


def _state(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_mtime_ns, found.st_size
