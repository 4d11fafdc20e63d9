"""Tasks of lm-evaluation-harness, answered by a model of ours. Needs ``pip install 'inlay[eval]'``.

The harness's own ``HFLM`` runs the model, so numbers are those of the harness on the exported
folder; added are answers that are kept, several processes, and the model's own stop tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from inlay.core.errors import ConfigError, did_you_mean

PREFIX = "lm:"

_BOOTSTRAP = 1000  # draws for the errors of perplexities; the harness's 100,000 take half a minute


def find_tasks(names: Sequence[str], include_path: str | None = None) -> Any:
    """Return the harness's ``TaskManager``, which knows all of ``names``.

    Args:
        include_path: folder with YAML files of one's own tasks.

    Raises:
        ConfigError: the harness is not installed, or there is no such task.
    """
    try:
        from lm_eval.tasks import TaskManager
    except ImportError as error:
        raise ConfigError(
            f"the task {PREFIX}{names[0]} needs lm-evaluation-harness ({error}). Install it: "
            "pip install 'inlay[eval]'"
        ) from error
    if include_path is not None:
        own = TaskManager(include_path=include_path, include_defaults=False)
        if set(names) <= set(own.all_subtasks):
            return own  # reading the harness's 14,000 tasks takes seconds
    manager = TaskManager(include_path=include_path)
    unknown = [name for name in names if name not in manager.all_tasks]
    if unknown:
        lines = (f"'{name}'.{did_you_mean(name, manager.all_tasks)}" for name in unknown)
        raise ConfigError(f"lm-evaluation-harness has no task {' and no task '.join(lines)}")
    return manager


def run_tasks(
    names: Sequence[str],
    manager: Any,
    model: Any,
    *,
    limit: int | None = None,
    num_fewshot: int | None = None,
    chat: bool = False,
) -> dict[str, dict[str, Any]]:
    """Run tasks of lm-evaluation-harness.

    Args:
        manager: see ``find_tasks``.
        model: see ``lm_eval_model.InlayLM``.
        limit: documents of each task.
        num_fewshot: examples before each question; None: what the task names.
        chat: ask in the tokenizer's chat template.

    Returns:
        task or group -> metric -> number, as the harness gives them; nothing in a process that
        only helps.

    Raises:
        ConfigError: the harness refuses a task (it runs code of the model, or needs pictures).
    """
    from lm_eval.evaluator import simple_evaluate

    try:
        found = simple_evaluate(
            model=model,
            tasks=list(names),
            task_manager=manager,
            limit=limit,
            num_fewshot=num_fewshot,
            apply_chat_template=chat,
            log_samples=False,
            bootstrap_iters=_BOOTSTRAP,
        )
    except ValueError as error:
        raise ConfigError(f"lm-evaluation-harness: {error}") from error
    return {} if found is None else numbers({**found["results"], **(found.get("groups") or {})})


def numbers(results: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return the numbers of a harness's results: task -> metric -> number.

    A metric ``acc,none`` is ``acc``; names of other filters stay.
    """
    return {
        task: {
            name.removesuffix(",none"): float(value)
            for name, value in metrics.items()
            if isinstance(value, int | float) and not isinstance(value, bool) and "," in name
        }
        for task, metrics in results.items()
    }
