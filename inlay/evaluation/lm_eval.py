"""Tasks of lm-evaluation-harness, answered by a model of ours. Needs ``pip install 'inlay[eval]'``.

The harness's own ``HFLM`` runs the model, so numbers are those of the harness on the exported
folder; added are answers that are kept, several processes, and the model's own stop tokens.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from inlay.core import dist
from inlay.core.errors import ConfigError, did_you_mean
from inlay.core.io import fingerprint
from inlay.evaluation.records import Records

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
        model: see ``lm_model``.
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


def lm_model(
    llm: Any,
    tokenizer: Any,
    records: Records,
    *,
    batch_size: int = 1,
    stop_ids: Sequence[int] = (),
    stop_words: Sequence[str] = (),
) -> Any:
    """Return a model of the harness (``lm_eval.models.huggingface.HFLM``) around one of ours.

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
    import torch.distributed
    from lm_eval.models.huggingface import HFLM

    class InlayLM(HFLM):
        def __init__(self) -> None:
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
            self.cache_hook = _Keep(records)

        def loglikelihood(self, requests: Any, disable_tqdm: bool = False) -> list[Any]:
            found = self._answers("loglikelihood", requests, super().loglikelihood)
            return [(value, bool(is_greedy)) for value, is_greedy in found]

        def loglikelihood_rolling(self, requests: Any, disable_tqdm: bool = False) -> list[Any]:
            return self._answers("loglikelihood_rolling", requests, super().loglikelihood_rolling)

        def generate_until(self, requests: Any, disable_tqdm: bool = False) -> list[str]:
            texts = self._answers("generate_until", requests, super().generate_until)
            return [_before(stop_words, text) for text in texts]

        def _answers(self, kind: str, requests: Any, run: Callable[..., Any]) -> list[Any]:
            """Kept answers, and those of ``run`` for the rest."""
            keys = [_key(kind, request.args) for request in requests]
            known = [key in records.rows for key in keys]  # never of texts drawn by lot
            rest = [r for r, is_known in zip(requests, known, strict=True) if not is_known]
            with self._alone():
                fresh = iter(run(rest) if rest else ())
            return [
                records.rows[key]["value"] if is_known else next(fresh)
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
            options.setdefault("eos_token_id", list(stop_ids) or None)
            return super()._model_generate(context, max_length, [*stop, *stop_words], **options)

        def tok_decode(self, tokens: Any, skip_special_tokens: bool = True) -> str:
            if skip_special_tokens and isinstance(tokens, list):  # an answer: up to its end
                ends = (n for n, token in enumerate(tokens) if token in stop_ids)
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

    return InlayLM()


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
