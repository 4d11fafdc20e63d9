"""Evaluation jobs of a run: what they execute, and where."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from typing import Any

from inlay.app.evaluate.run import plan_tasks
from inlay.core.errors import ConfigError
from inlay.engine.hooks.evaluation_jobs import EvaluationJobsHook
from inlay.evaluation.job_files import logged_results
from inlay.evaluation.job_runners import JobRunner, LocalJobs
from inlay.evaluation.jobs import EvaluationJobs
from inlay.evaluation.slurm import SlurmJobs

PLACES = ("{checkpoint}", "{result}")


def open_jobs(
    runner: Any,
    *,
    run_by: str,
    command: str | None,
    max_jobs: int,
    nice: int,
    threads: int,
    devices: str | None,
    time_limit: float,
    slurm_options: Sequence[str],
    slurm_setup: Sequence[str],
    ask_every: float,
    **evaluation: Any,
) -> tuple[EvaluationJobs, dict[str, str]]:
    """Return who tends the jobs of a run, and what earlier starts have logged: step -> weights.

    Args:
        evaluation: ``tasks``, ``data``, ``image_folder``, ``limit``, ``options``; the rest, too,
            is described at ``EvaluationJobsHook``.

    Raises:
        ConfigError: an unknown task, missing data, or a command that cannot be used.
    """
    where: JobRunner
    if run_by == "slurm":
        where = SlurmJobs(slurm_options, slurm_setup, time_limit, ask_every, max_jobs)
    else:
        where = LocalJobs(max_jobs, nice, threads, devices)
    jobs = EvaluationJobs(
        runner.work_dir,
        where,
        command_words(command) if command is not None else _inlay_eval(**evaluation),
        hands_on=command is not None and run_by == "local",
        time_limit=time_limit,
        say=runner.logger.warning,
    )
    return jobs, logged_results(runner.work_dir)


def command_words(command: str) -> list[str]:
    """The words of a command line.

    Raises:
        ConfigError: it cannot be split, or does not say what to evaluate.
    """
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise ConfigError(f"EvaluationJobsHook.command: {error}: {command}") from error
    if not any(place in command for place in PLACES):
        raise ConfigError(
            f"EvaluationJobsHook.command names neither {' nor '.join(PLACES)}: {command}"
        )
    return words


def _inlay_eval(
    tasks: Sequence[str],
    data: Sequence[str],
    image_folder: str | None,
    limit: int | None,
    options: Sequence[str],
) -> list[str]:
    """``inlay eval`` for a checkpoint."""
    plan_tasks(tasks, data)
    words = [sys.executable, "-m", "inlay", "eval", *tasks, "--model", "{checkpoint}"]
    words += ["--data", *data] if data else []
    words += ["--image-folder", image_folder] if image_folder is not None else []
    words += ["--limit", str(limit)] if limit is not None else []
    work = ["--work-dir", "{work_dir}/eval_results/work"]
    return [*words, "--out", "{result}", *work, *options]


def pick_up(runner: Any) -> None:
    """Log the results that came after the end of a run, and wait for those that still come."""
    for hook in runner.hooks:
        if isinstance(hook, EvaluationJobsHook):
            hook.before_train(runner)
            hook.after_train(runner)
            hook.after_run(runner)
