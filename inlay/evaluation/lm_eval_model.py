"""The model of lm-evaluation-harness that answers with a model of ours. Imports the harness."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed
from lm_eval.models.huggingface import HFLM

from inlay.core import dist
from inlay.core.io import fingerprint
from inlay.evaluation.records import Records


class InlayLM(HFLM):  # type: ignore[misc, unused-ignore]
    """A model of the harness around one of ours.

    Args:
        llm: a causal language model of transformers, with adapters or without, or an
            image-text-to-text model, which is given no picture.
        tokenizer: is changed (it gets a padding token). Its chat template is the one that a task is
            asked in.
        records: where answers are kept as they come; what is there is not asked again.
        batch_size: rows that run at once.
        stop_ids: tokens that end a generated text, beside the task's stop texts.
        stop_words: texts that end it.
    """

    def __init__(
        self,
        llm: Any,
        tokenizer: Any,
        records: Records,
        *,
        batch_size: int = 1,
        stop_ids: Sequence[int] = (),
        stop_words: Sequence[str] = (),
    ) -> None:
        self.records, self.stop_ids, self.stop_words = records, stop_ids, stop_words
        positions = getattr(llm.config.get_text_config(), "max_position_embeddings", None)
        # It warns of a model that it has not loaded itself.
        logging.getLogger("lm_eval.models.huggingface").setLevel(logging.ERROR)
        super().__init__(
            pretrained=llm,
            tokenizer=tokenizer,
            backend="causal",
            batch_size=batch_size,
            max_length=positions,
        )
        self._rank, self._world_size = dist.rank(), dist.world_size()
        self.cache_hook = _Keep(self.records)

    def loglikelihood(self, requests: Any, disable_tqdm: bool = False) -> list[Any]:
        found = self._answers("loglikelihood", requests, super().loglikelihood)
        return [(value, bool(is_greedy)) for value, is_greedy in found]

    def loglikelihood_rolling(self, requests: Any, disable_tqdm: bool = False) -> list[Any]:
        return self._answers("loglikelihood_rolling", requests, super().loglikelihood_rolling)

    def generate_until(self, requests: Any, disable_tqdm: bool = False) -> list[str]:
        texts = self._answers("generate_until", requests, super().generate_until)
        return [_before(self.stop_words, text) for text in texts]

    def _answers(self, kind: str, requests: Any, run: Callable[..., Any]) -> list[Any]:
        """Kept answers, and those of ``run`` for the rest."""
        keys = [_key(kind, request.args) for request in requests]
        known = [key in self.records.rows for key in keys]  # never of texts drawn by lot
        rest = [r for r, is_known in zip(requests, known, strict=True) if not is_known]
        with self._alone():
            fresh = iter(run(rest) if rest else ())
        return [
            self.records.rows[key]["value"] if is_known else next(fresh)
            for key, is_known in zip(keys, known, strict=True)
        ]

    @contextmanager
    def _alone(self) -> Iterator[None]:
        # Processes have kept different answers: none waits for the batches of another.
        self._world_size = 1
        try:
            yield
        finally:
            self._world_size = dist.world_size()

    def _model_generate(self, context: Any, max_length: int, stop: Any, **options: Any) -> Any:
        options.setdefault("eos_token_id", list(self.stop_ids) or None)
        return super()._model_generate(context, max_length, [*stop, *self.stop_words], **options)

    def tok_decode(self, tokens: Any, skip_special_tokens: bool = True) -> str:
        if skip_special_tokens and isinstance(tokens, list):  # an answer: up to its end
            ends = (n for n, token in enumerate(tokens) if token in self.stop_ids)
            tokens = tokens[: next(ends, len(tokens))]
        return super().tok_decode(tokens, skip_special_tokens=skip_special_tokens)

    def all_gather(self, tensor: Any) -> Any:
        if self.world_size == 1:
            return tensor
        mine = tensor.detach().cpu().reshape(-1)
        parts = [torch.zeros_like(mine) for _ in range(self.world_size)]
        torch.distributed.all_gather(parts, mine)
        return torch.cat(parts)

    def barrier(self) -> None:
        if self.world_size > 1:
            torch.distributed.barrier()


class _Keep:
    """Takes the place of the harness's ``CacheHook``, which is told of every answer."""

    def __init__(self, records: Records) -> None:
        self.records = records

    def add_partial(self, kind: str, args: Sequence[Any], answer: Any) -> None:
        key = _key(kind, args)
        if key not in self.records.rows and not _draws(args):
            self.records.add(key, {"value": answer})


def _key(kind: str, args: Sequence[Any]) -> str:
    return fingerprint([kind, *args])


def _draws(args: Sequence[Any]) -> bool:
    """Whether a request is for a text drawn by lot: each of its repetitions is another one."""
    return isinstance(args[-1], dict) and bool(args[-1].get("do_sample"))


def _before(stops: Sequence[str], text: str) -> str:
    """A text up to the first stop text in it."""
    for stop in stops:
        text = text.split(stop, 1)[0]
    return text
