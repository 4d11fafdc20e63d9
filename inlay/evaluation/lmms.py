"""Tasks of lmms-eval, answered by a model of ours. Needs ``pip install 'inlay[lmms]'``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from inlay.core.errors import ConfigError, InlayError, ModelError
from inlay.evaluation.ask import Answer

if TYPE_CHECKING:
    from PIL.Image import Image

Score = Callable[[list["Image"], str, str], tuple[float, bool]]
"""``score(pictures, text, continuation)``: negative log-likelihood in nats, summed over the
continuation's tokens, and whether a greedy answer is the continuation."""

_MAX_NEW_TOKENS = 1024  # of a task that names no limit, as the models of lmms-eval take it


def run_tasks(
    names: Sequence[str], answer: Answer, score: Score, limit: int | None = None
) -> dict[str, Any]:
    """Run tasks of lmms-eval by name.

    Returns:
        task -> metric -> number as lmms-eval gives them, and ``not_asked``: why questions of all
        tasks could not be asked (they are answered by an empty text).

    Raises:
        ConfigError: lmms-eval is not installed.
    """
    try:
        from lmms_eval.evaluator import simple_evaluate
    except ImportError as error:
        raise ConfigError(
            f"the task lmms:{names[0]} needs lmms-eval ({error}). Install it: pip install "
            "'inlay[lmms]'"
        ) from error
    model = lmms_model(answer, score)
    found = simple_evaluate(
        model=model, tasks=list(names), limit=limit, batch_size=1, log_samples=False
    )
    results = {
        task: {name: value for name, value in metrics.items() if isinstance(value, (int, float))}
        for task, metrics in found["results"].items()
    }
    return {**results, "not_asked": model.problems}


def lmms_model(answer: Answer, score: Score) -> Any:
    """Return lmms-eval's model interface (``lmms_eval.api.model.lmms``) around functions of ours.

    Answers are greedy, whatever sampling a task asks for, and end at the task's stop texts.
    """
    from lmms_eval.api import instance
    from lmms_eval.api.model import lmms

    class InlayModel(lmms):
        is_simple = True  # requests are texts with pictures beside them, not chats

        def __init__(self) -> None:
            super().__init__()
            self.problems: list[str] = []

        def generate_until(self, requests: Sequence[Any]) -> list[str]:
            return [self._generate(*request.args) for request in requests]

        def loglikelihood(self, requests: Sequence[Any]) -> list[Any]:
            # Not what its documentation says: lmms-eval takes the *smallest* number as the best,
            # since its own models return losses. And since 0.7 it turns a plain pair into a text.
            wrap = getattr(instance, "GenerationResult", tuple)
            return [wrap(self._score(*request.args)) for request in requests]

        def generate_until_multi_round(self, requests: Sequence[Any]) -> list[str]:
            raise ModelError("tasks of several rounds cannot be run with Inlay's models")

        def _generate(
            self, text: str, settings: dict[str, Any], visual: Any, i: int, task: str, split: str
        ) -> str:
            pictures = _pictures(visual, self.task_dict[task][split][i])
            try:
                said = answer(pictures, text, settings.get("max_new_tokens", _MAX_NEW_TOKENS))
            except InlayError as error:
                self.problems.append(f"{task}, question {i}: {error}")
                return ""
            return _until(said, settings.get("until") or [])

        def _score(
            self, text: str, target: Any, visual: Any, i: int, task: str, split: str
        ) -> tuple[float, bool]:
            row = self.task_dict[task][split][i]
            continuation = target if isinstance(target, str) else target(row)
            return score(_pictures(visual, row), text, continuation)

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
