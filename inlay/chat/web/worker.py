"""One thread that runs one job after the other, behind a queue that refuses when it is full."""

from __future__ import annotations

import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

from inlay.chat.web.parts import Busy, Refused, Said, Waiting
from inlay.core.errors import InlayError

TICK = 1.0
"""Seconds after which a job's follower hears again of one that has no news: only when it is
resumed can it notice that nobody listens any more."""
PACE = 0.05
"""Seconds between two pieces of news."""
GONE = "the request was given up"


class Gone(Refused):
    """Nobody waits for a job any more."""


class Job:
    """Work for the thread, and what is known of it.

    Attributes:
        cancelled: nobody waits for it any more. ``stopped``: end it early, but with a result.
        text: what was said so far.
    """

    def __init__(self, work: Callable[[Job], Any]) -> None:
        self.work = work
        self.cancelled = False
        self.stopped = False
        self.finished = threading.Event()
        self.result: Any = None
        self.error: BaseException | None = None
        self.text = ""
        self._news = threading.Event()

    def say(self, piece: str) -> None:
        """Add text to what is said so far."""
        self.text += piece
        self._news.set()

    def should_stop(self) -> bool:
        """Whether the work ends here.

        Raises:
            Gone: at once, without a result.
        """
        if self.cancelled:
            raise Gone(GONE)
        return self.stopped

    def wait(self, timeout: float) -> None:
        """Wait for news, then a little longer for more of it."""
        if self._news.wait(timeout):
            self.finished.wait(PACE)
            self._news.clear()

    def finish(self) -> None:
        """Tell those who wait."""
        self.finished.set()
        self._news.set()

    def outcome(self) -> Any:
        """Return the result of a finished job, or raise its error."""
        if self.error is not None:
            raise self.error
        return self.result


class Worker:
    """Runs jobs in the order in which they come.

    Args:
        most_waiting: jobs that may wait, besides the one that runs.
    """

    def __init__(self, most_waiting: int) -> None:
        self.most_waiting = most_waiting
        self._waiting: deque[Job] = deque()
        self._running: Job | None = None
        self._closed = False
        self._change = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="inlay-chat", daemon=True)
        self._thread.start()

    def submit(self, work: Callable[[Job], Any]) -> Job:
        """Queue work; it is called with its job, in the worker's thread.

        Raises:
            Busy: the queue is full.
        """
        with self._change:
            if self._closed:
                raise Refused("the server is shutting down")
            if len(self._waiting) >= self.most_waiting:
                raise Busy(
                    f"busy: {len(self._waiting)} others are waiting. Please try again in a moment."
                )
            job = Job(work)
            self._waiting.append(job)
            self._change.notify()
            return job

    def follow(self, job: Job) -> Iterator[Any]:
        """Yield ``Waiting`` and ``Said``, at least once in ``TICK`` seconds, then the result.

        Whoever closes the iterator cancels the job.

        Raises:
            Exception: what the work raised.
        """
        try:
            while not job.finished.is_set():
                before = self.before(job)
                yield Said(job.text) if before is None else Waiting(before)
                job.wait(TICK)
            yield job.outcome()
        finally:
            self.cancel(job)

    def result(self, job: Job) -> Any:
        """Wait for a job and return its result, or raise its error."""
        job.finished.wait()
        return job.outcome()

    def before(self, job: Job) -> int | None:
        """Return how many jobs are done before this one; None once it runs."""
        with self._change:
            if job not in self._waiting:
                return None
            return self._waiting.index(job) + (self._running is not None)

    def cancel(self, job: Job) -> None:
        """Give a job up: a waiting one leaves the queue, a running one ends when it looks."""
        with self._change:
            job.cancelled = True
            if job in self._waiting:
                self._waiting.remove(job)
                job.error = Gone(GONE)
                job.finish()

    def close(self, patience: float = 5.0) -> None:
        """Give up all jobs and end the thread, which has ``patience`` seconds."""
        with self._change:
            self._closed = True
            jobs = [*self._waiting, *([self._running] if self._running else [])]
            self._change.notify()
        for job in jobs:
            self.cancel(job)
        self._thread.join(patience)

    def _run(self) -> None:
        while (job := self._next()) is not None:
            try:
                job.result = job.work(job)
            except InlayError as error:
                job.error = error
            except BaseException as error:  # one visitor's failure must not end the others' chats
                traceback.print_exc()
                job.error = Refused("the answer failed: the server's log says why")
                job.error.__cause__ = error
            with self._change:
                self._running = None
            job.finish()

    def _next(self) -> Job | None:
        with self._change:
            self._change.wait_for(lambda: self._closed or bool(self._waiting))
            self._running = None if self._closed else self._waiting.popleft()
            return self._running
