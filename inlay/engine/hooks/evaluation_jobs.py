"""Have checkpoints evaluated beside the training, which never waits for it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Any, Literal

from inlay.engine.checkpoint import list_checkpoints
from inlay.engine.hooks.base import Hook


class EvaluationJobsHook(Hook):
    """Hands a checkpoint to an evaluation job every ``interval`` iterations, and at the end.

    Results are logged, each once, as soon as they are there: during training, after the last update
    (for which it waits a while), or when the run is started again. A checkpoint is not deleted
    before its evaluation is over. What goes wrong with an evaluation is reported, and never ends
    the run. A local job that is ended with the run is started again on resume.

    Args:
        interval: iterations between two evaluations; where nothing is saved then, it saves.
        open_jobs: ``(runner, **settings)`` returns who tends the jobs (``evaluation.jobs``); handed
            in, since it lives on another floor.
        tasks: as ``inlay eval`` takes them: ``vqa``, ``lmms:mmstar``, ``lm:hellaswag``, ...
        data: files or folders, one for each task that needs one, in their order.
        image_folder: where the pictures of the data lie; None: beside them.
        limit: questions of each task; None: all.
        options: more words for ``inlay eval``.
        run_by: ``"local"`` processes of this machine, or ``"slurm"``.
        command: run in place of ``inlay eval``: a line in which ``{checkpoint}``, ``{step}``,
            ``{result}`` and ``{work_dir}`` are filled in, split as a shell would, without a shell.
            It writes ``{result}``, or hands on to others who will.
        max_jobs: how many at once.
        nice, threads, devices: of local jobs, see ``evaluation.job_runners.LocalJobs``.
        time_limit: of a job, seconds.
        slurm_options, slurm_setup: see ``evaluation.slurm.SlurmJobs``.
        ask_every: seconds between two questions to slurm.
        wait: seconds that the end of training waits for the last results; a later start of the run
            picks up what comes after.
    """

    priority = 95  # after the checkpoint hook, before those that give the model away

    def __init__(
        self,
        interval: int,
        open_jobs: Callable[..., Any],
        tasks: Sequence[str] = (),
        data: Sequence[str] = (),
        image_folder: str | None = None,
        limit: int | None = None,
        options: Sequence[str] = (),
        run_by: Literal["local", "slurm"] = "local",
        command: str | None = None,
        max_jobs: int = 1,
        nice: int = 10,
        threads: int = 1,
        devices: str | None = None,
        time_limit: float = 4 * 3600,
        slurm_options: Sequence[str] = (),
        slurm_setup: Sequence[str] = (),
        ask_every: float = 60.0,
        wait: float = 1800.0,
    ) -> None:
        self.interval, self.wait = interval, wait
        self.open_jobs = open_jobs
        self.settings: dict[str, Any] = {
            "tasks": list(tasks),
            "data": list(data),
            "image_folder": image_folder,
            "limit": limit,
            "options": list(options),
            "run_by": run_by,
            "command": command,
            "max_jobs": max_jobs,
            "nice": nice,
            "threads": threads,
            "devices": devices,
            "time_limit": time_limit,
            "slurm_options": list(slurm_options),
            "slurm_setup": list(slurm_setup),
            "ask_every": ask_every,
        }
        self.jobs: Any = None
        self.logged: dict[str, str] = {}
        self.longest_stall = 0.0
        self._held: dict[int, str] = {}

    def after_load_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        self.logged = dict(checkpoint.get("evaluation_logged", {}))

    def before_save_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        checkpoint["evaluation_logged"] = dict(self.logged)

    def before_train(self, runner: Any) -> None:
        if runner.rank != 0:
            return
        self.jobs, earlier = self.open_jobs(runner, **self.settings)
        self.logged |= earlier
        for job in self.jobs.start():
            self._hold(runner, job.step, job.checkpoint)
        # A kill between a save and the hand-over, or a job that has failed: once more.
        for path in list_checkpoints(runner.work_dir):
            step = int(path.name.partition("_")[2])
            if path.name.startswith("iter_") and self._is_due(runner, step):
                self._submit(runner, step, path.name)

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        done = runner.iter + 1
        due = self._is_due(runner, done)
        if due and runner.last_saved != done:
            runner.save_checkpoint(f"iter_{done}")
        if self.jobs is None:
            return
        began = time.perf_counter()
        if due:
            self._submit(runner, done, f"iter_{done}")
        self._take(runner)
        self.longest_stall = max(self.longest_stall, time.perf_counter() - began)

    def after_train(self, runner: Any) -> None:
        """Wait for the last results, all ranks together."""
        end = time.monotonic() + self.wait
        if open_ := self._open():
            runner.logger.info("waiting for %d evaluation(s), %g s at most", open_, self.wait)
        while runner.strategy.gather(self._open() if time.monotonic() < end else 0)[0]:
            if runner.should_stop():
                break
            time.sleep(0.2)
            if self.jobs is not None:
                self._take(runner)
        if self.jobs is not None:
            self._take(runner)
            self._sum_up(runner)
        runner.state.best = runner.strategy.gather(runner.state.best)[0]

    def after_run(self, runner: Any) -> None:
        if self.jobs is not None:
            self.jobs.close(stop=runner.stop_reason is not None)
            self.jobs = None

    def _is_due(self, runner: Any, done: int) -> bool:
        return done == runner.max_iters or (self.interval > 0 and done % self.interval == 0)

    def _submit(self, runner: Any, step: int, name: str) -> None:
        self._hold(runner, step, name)
        self.jobs.submit(step, name)

    def _hold(self, runner: Any, step: int, name: str) -> None:
        self._held[step] = name
        runner.held.add(name)

    def _open(self) -> int:
        return 0 if self.jobs is None else self.jobs.unfinished() + len(self.jobs.outcomes)

    def _take(self, runner: Any) -> None:
        """Log what has been found since the last call."""
        while self.jobs.outcomes:
            outcome = self.jobs.outcomes.popleft()
            if outcome.metrics is None:
                runner.logger.warning(
                    "evaluation of step %d failed: %s", outcome.step, outcome.problem
                )
            else:
                self._log(runner, outcome)
            # Only now: the best checkpoint has been made from it, if it is the best.
            runner.held.discard(self._held.pop(outcome.step, ""))

    def _log(self, runner: Any, outcome: Any) -> None:
        step = str(outcome.step)
        if self.logged.get(step) != outcome.weights:
            # Later starts find it by its last key, and then log it no more.
            record = {"step": outcome.step, **outcome.metrics, "eval_weights": outcome.weights}
            runner.track(record, axis="evaluation")
            self.logged[step] = outcome.weights
            shown = "  ".join(f"{k}: {v:.4f}" for k, v in outcome.metrics.items())
            runner.logger.info("evaluation of step %d  %s", outcome.step, shown)
        if outcome.checkpoint is not None:
            finite = {k: v for k, v in outcome.metrics.items() if math.isfinite(v)}
            runner.hooks_list.call(
                "after_evaluation",
                runner,
                metrics=finite,
                step=outcome.step,
                checkpoint=runner.work_dir / outcome.checkpoint,
            )

    def _sum_up(self, runner: Any) -> None:
        late = self._open()
        runner.logger.info(
            "evaluations: %d logged; the longest stall of an update was %.1f ms%s",
            len(self.logged),
            1000 * self.longest_stall,
            f"; {late} not over yet: start the run again to pick them up" if late else "",
        )
