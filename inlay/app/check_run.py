"""What is wrong with a config, and with what it will hand to other commands."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

from inlay.config.check import check_config
from inlay.config.load import Config
from inlay.config.problems import Locator, Problem
from inlay.config.registry import resolve
from inlay.core.errors import ConfigError


def check_run(cfg: Config, files: Literal["warn", "error"] = "warn") -> list[Problem]:
    """Return everything that is wrong with a config. No weights and no data are loaded.

    Args: as of ``check_config``, which does not know the tasks of ``inlay eval``.
    """
    return [*check_config(cfg, files), *_evaluations(cfg)]


def _evaluations(cfg: Config) -> Iterator[Problem]:
    """Evaluation jobs that would be refused once the model is loaded."""
    hooks: Any = cfg.get("custom_hooks")
    for index, hook in enumerate(hooks if isinstance(hooks, list) else []):
        if not isinstance(hook, dict) or not _is_evaluation(hook.get("type")):
            continue
        from inlay.app.evaluate.jobs import command_words
        from inlay.app.evaluate.run import plan_tasks

        command, tasks, data = (hook.get(name) for name in ("command", "tasks", "data"))
        path = f"custom_hooks.{index}.{'tasks' if command is None else 'command'}"
        try:
            if command is None and _are_words(tasks) and _are_words(data):
                plan_tasks(tasks or (), data or ())
            elif isinstance(command, str):
                command_words(command)
        except ConfigError as error:
            got = ", ".join(tasks or ()) if command is None else command
            line = Locator(cfg).line(path)
            yield Problem(path, "what an evaluation job can run", got, f"{error}", line=line)


def _are_words(value: Any) -> bool:
    """Anything else is told by check_config."""
    if value is None:
        return True
    return isinstance(value, list | tuple) and all(isinstance(word, str) for word in value)


def _is_evaluation(name: Any) -> bool:
    from inlay.engine.hooks.evaluation_jobs import EvaluationJobsHook

    try:
        return resolve(name) is EvaluationJobsHook
    except ConfigError:  # told by check_config
        return False
