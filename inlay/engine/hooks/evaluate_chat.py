"""Let the model answer while it trains."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from inlay.core.errors import ConfigError, DataError
from inlay.engine import rng
from inlay.engine.hooks.base import Hook
from inlay.engine.hooks.checkpoint import CheckpointHook

FIRST_LOOK_TOKENS = 50
"""Answer length before training, as in the original: a glance, not an evaluation."""


class EvaluateChatHook(Hook):
    """Asks ``evaluation_inputs`` before training, every ``every_n_iters``, at saves and at the end.

    Answers go to the log and to trackers (table ``generations``), at saves also to
    ``vis_data/eval_outputs_iter_{N}.txt`` with N counted from 0. Generation draws from its own
    random state: it never changes the training. A picture that cannot be read is warned about
    once, and its question is asked without it.

    Args:
        tokenizer: of the model.
        evaluation_inputs: user turns, one conversation each.
        respond: ``(model, tokenizer, prompt_template, system, text, max_new_tokens, stop_words,
            image, image_processor)`` to decoded prompt and answer, a ``DataError`` for a picture
            that cannot be read; handed in, since chat templates live on another floor.
        system: text of the system turn, or several parts that are joined.
        prompt_template: a named template's dict; None uses the tokenizer's own.
        every_n_iters: None asks after every validation instead.
        max_new_tokens: length of an answer, in tokens.
        stop_words: end an answer, besides those of the template.
        evaluation_images: a picture for all inputs, or one each (None for no picture): files or
            ``http(s)`` addresses.
        image_processor: of a model with eyes.

    Raises:
        ConfigError: pictures without an image processor, or another number than inputs.
    """

    priority = "LOW"

    def __init__(
        self,
        tokenizer: Any,
        evaluation_inputs: str | Sequence[str],
        respond: Callable[..., str],
        system: str | Sequence[str] = "",
        prompt_template: Any = None,
        every_n_iters: int | None = None,
        max_new_tokens: int = 600,
        stop_words: Sequence[str] = (),
        evaluation_images: str | Sequence[str | None] | None = None,
        image_processor: Any = None,
    ) -> None:
        self.tokenizer, self.respond = tokenizer, respond
        inputs = [evaluation_inputs] if isinstance(evaluation_inputs, str) else evaluation_inputs
        self.evaluation_inputs = list(inputs)
        self.system = system if isinstance(system, str) else "".join(system)
        self.prompt_template = prompt_template
        self.every_n_iters = every_n_iters
        self.max_new_tokens = max_new_tokens
        self.stop_words = list(stop_words)
        self.image_processor = image_processor
        self.images = _one_each(evaluation_images, len(self.evaluation_inputs))
        if any(self.images) and image_processor is None:
            raise ConfigError("EvaluateChatHook: evaluation_images need an image_processor")

    def before_train(self, runner: Any) -> None:
        self._ask(runner, "before_train", min(self.max_new_tokens, FIRST_LOOK_TOKENS))

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        if self.every_n_iters is None:
            return
        saves = any(isinstance(h, CheckpointHook) and h.saves_now(runner) for h in runner.hooks)
        if saves or self.every_n_train_iters(runner, self.every_n_iters):
            self._ask(runner, "after_train_iter", self.max_new_tokens, save=saves)

    def after_val(self, runner: Any) -> None:
        if self.every_n_iters is None:
            self._ask(runner, "after_val", self.max_new_tokens)

    def after_train(self, runner: Any) -> None:
        self._ask(runner, "after_train", self.max_new_tokens)

    def _ask(self, runner: Any, where: str, max_new_tokens: int, save: bool = False) -> None:
        with runner.strategy.whole(runner.model):
            if runner.rank == 0:
                self._ask_here(runner, where, max_new_tokens, save)

    def _ask_here(self, runner: Any, where: str, max_new_tokens: int, save: bool) -> None:
        runner.logger.info("%s in EvaluateChatHook.", where)
        answers = []
        with rng.preserved():
            for number in range(len(self.evaluation_inputs)):
                answer = self._answer(runner, number, max_new_tokens)
                runner.logger.info("Sample output:\n%s\n", answer)
                answers.append(answer)
        runner.track_table("generations", self._rows(answers))
        if save:
            path = Path(runner.log_dir) / "vis_data" / f"eval_outputs_iter_{runner.iter}.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            blocks = [f"Eval output {i}:\n{a}\n\n\n" for i, a in enumerate(answers, 1)]
            path.write_text("".join(blocks), encoding="utf-8")

    def _rows(self, answers: list[str]) -> list[dict[str, str]]:
        """A row a question; ``output`` is prompt and answer, with their special tokens."""
        asked = zip(self.evaluation_inputs, self.images, answers, strict=True)
        return [{"input": t, "image": image or "", "output": a} for t, image, a in asked]

    def _answer(self, runner: Any, number: int, max_new_tokens: int) -> str:
        text = self.evaluation_inputs[number]
        words = (self.tokenizer, self.prompt_template, self.system, text)
        limits = (max_new_tokens, self.stop_words)
        if self.image_processor is None:
            return self.respond(runner.model, *words, *limits)
        image = self.images[number]
        try:
            return self.respond(runner.model, *words, *limits, image, self.image_processor)
        except DataError as error:
            if image is None:
                raise
            runner.logger.warning("Asking '%s' without its picture: %s", text, error)
            self.images = [None if other == image else other for other in self.images]
            return self.respond(runner.model, *words, *limits, None, self.image_processor)


def _one_each(images: str | Sequence[str | None] | None, count: int) -> list[str | None]:
    """One picture or None for each of ``count`` inputs; a single one is for all."""
    given = [images] if images is None or isinstance(images, str) else list(images)
    if len(given) == 1:
        return given * count
    if len(given) != count:
        raise ConfigError(
            f"EvaluateChatHook: there are {len(given)} evaluation_images for {count} "
            "evaluation_inputs. Give one, or as many as inputs"
        )
    return given
