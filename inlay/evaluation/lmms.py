"""Tasks of lmms-eval, answered by a model of ours. Needs ``pip install 'inlay[lmms]'``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from inlay.core import dist
from inlay.core.errors import ConfigError, InlayError, ModelError, did_you_mean
from inlay.core.io import fingerprint
from inlay.evaluation.ask import Answer
from inlay.evaluation.lm_eval import numbers
from inlay.evaluation.records import Records

if TYPE_CHECKING:
    from PIL.Image import Image

Score = Callable[[list["Image"], str, str], tuple[float, bool]]
"""``score(pictures, text, continuation)``: negative log-likelihood in nats, summed over the
continuation's tokens, and whether a greedy answer is the continuation."""

PREFIX = "lmms:"

TASKS = (
    "mmstar",
    "mmmu_val",
    "ocrbench",
    "textvqa_val",
    "docvqa_val",
    "scienceqa",
    "mme",
    "infovqa_val",
    "chartqa",
)
"""What nanoVLM evaluates its checkpoints on. lmms-eval knows many more."""

_MAX_NEW_TOKENS = 1024  # of a task that names no limit, as the models of lmms-eval take it

_UNASKED = {"generate_until": "", "loglikelihood": (float("inf"), False)}
"""What stands for the answer to a question that could not be asked."""


def check_tasks(names: Sequence[str]) -> None:
    """Make sure that lmms-eval has these tasks.

    Raises:
        ConfigError: it is not installed, or does not know one of them.
    """
    try:
        from lmms_eval.tasks import TaskManager
    except ImportError as error:
        near = [did_you_mean(name, TASKS) for name in names if name not in TASKS]
        raise ConfigError(
            f"the task {PREFIX}{names[0]} needs lmms-eval ({error}). Install it: pip install "
            f"'inlay[lmms]'.{''.join(near)}"
        ) from error
    known = TaskManager().all_tasks
    unknown = [name for name in names if name not in known]
    if unknown:
        lines = (f"'{name}'.{did_you_mean(name, [*TASKS, *known])}" for name in unknown)
        raise ConfigError(
            f"lmms-eval has no task {' and no task '.join(lines)} Among others it has "
            f"{', '.join(TASKS)}"
        )


def run_tasks(
    names: Sequence[str], answer: Answer, score: Score, records: Records, limit: int | None = None
) -> dict[str, dict[str, Any]]:
    """Run tasks of lmms-eval by name, see ``check_tasks``.

    Args:
        records: where answers are kept as they come; what is there is not asked again. A question
            that could not be asked has a ``problem`` there, and is answered by an empty text.
        limit: questions of each task.

    Returns:
        task -> metric -> number as lmms-eval gives them; nothing in a process that only helps.
    """
    from lmms_eval.evaluator import simple_evaluate

    model = lmms_model(answer, score, records)
    options: dict[str, Any] = {"limit": limit, "batch_size": 1, "log_samples": False}
    if dist.world_size() > 1:
        options["distributed_executor_backend"] = "torchrun"
    found = simple_evaluate(model=model, tasks=list(names), **options)
    return {} if found is None else numbers(found["results"])


def lmms_model(answer: Answer, score: Score, records: Records) -> Any:
    """Return lmms-eval's model interface (``lmms_eval.api.model.lmms``) around functions of ours.

    Answers are greedy, whatever sampling a task asks for, and end at the task's stop texts.

    Args:
        records: see ``run_tasks``.
    """
    import torch
    from lmms_eval.api import instance
    from lmms_eval.api.model import lmms

    class InlayModel(lmms):
        is_simple = True  # requests are texts with pictures beside them, not chats
        device = torch.device("cpu")  # of what the processes tell each other

        def __init__(self) -> None:
            super().__init__()
            self._rank, self._world_size = dist.rank(), dist.world_size()

        def generate_until(self, requests: Sequence[Any]) -> list[str]:
            return [self._kept("generate_until", r.args, self._generate) for r in requests]

        def loglikelihood(self, requests: Sequence[Any]) -> list[Any]:
            # Not what its documentation says: lmms-eval takes the *smallest* number as the best,
            # since its own models return losses. And since 0.7 it turns a plain pair into a text.
            wrap = getattr(instance, "GenerationResult", tuple)
            found = [self._kept("loglikelihood", r.args, score) for r in requests]
            return [wrap(tuple(pair)) for pair in found]

        def generate_until_multi_round(self, requests: Sequence[Any]) -> list[str]:
            raise ModelError("tasks of several rounds cannot be run with Inlay's models")

        def _kept(self, kind: str, args: Sequence[Any], run: Callable[..., Any]) -> Any:
            """An answer of an earlier run, or a new one."""
            text, asked, visual, i, task, split = args
            row = self.task_dict[task][split][i]
            asked = asked(row) if callable(asked) else asked
            key = fingerprint([kind, task, split, i, text, asked])
            if "value" not in records.rows.get(key, {}):
                pictures = _pictures(visual, row)
                try:
                    records.add(key, {"value": run(pictures, text, asked)})
                except InlayError as error:
                    problem = f"{task}, question {i}: {error}"
                    records.add(key, {"problem": problem, "task": task})
            return records.rows[key].get("value", _UNASKED[kind])

        def _generate(self, pictures: list[Image], text: str, settings: dict[str, Any]) -> str:
            said = answer(pictures, text, settings.get("max_new_tokens", _MAX_NEW_TOKENS))
            return _until(said, settings.get("until") or [])

    return InlayModel()


def _pictures(visual: Any, row: Any) -> list[Image]:
    """The pictures of a row, as RGB. ``visual`` is the task's function, None for text alone."""
    found = (visual(row) if callable(visual) else visual) or []
    if not all(hasattr(picture, "convert") for picture in found):
        kinds = ", ".join(sorted({type(picture).__name__ for picture in found}))
        raise ModelError(f"expected pictures, found {kinds}: videos and sounds cannot be shown")
    return [picture.convert("RGB") for picture in found]


def _until(text: str, stops: str | Sequence[str]) -> str:
    """Cut a text before the first stop text in it."""
    for stop in [stops] if isinstance(stops, str) else stops:
        text = text.split(stop, 1)[0] if stop else text
    return text.strip()
