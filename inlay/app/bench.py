"""How fast vision-language models answer: a small grid of models, one picture, one question."""

from __future__ import annotations

import gc
import itertools
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from transformers import GenerationConfig, StoppingCriteria, StoppingCriteriaList

from inlay.chat.open import Opened, load_tokenizer, open_model
from inlay.chat.pictures import Pictures, behind_pictures
from inlay.core.errors import InlayError, ModelError
from inlay.core.types import Message
from inlay.data.chat import ChatEncoder
from inlay.engine.hooks.logger import peak_memory

if TYPE_CHECKING:
    from PIL.Image import Image

LONGEST_SIDE = 2048
"""Of a picture for a model from backbones in px, as far as its tiles allow."""
FALLBACK_SIDE = 512
"""Side in px of the picture that is drawn where none is given."""


@dataclass(frozen=True)
class Case:
    """One row of the grid: what it is, and how to make the model."""

    name: dict[str, Any]
    open: Callable[[], Opened]


@dataclass(frozen=True)
class Work:
    """What every model does: ``num_runs`` measured answers after ``warmup_runs`` others."""

    image: Image
    prompt: str = "What is in this image?"
    max_new_tokens: int = 50
    num_runs: int = 10
    warmup_runs: int = 3


def finished(models: Sequence[str], dtype: str = "auto") -> list[Case]:
    """Cases of finished models: folders or hub names."""
    return [Case({"model": m}, partial(open_model, m, dtype=dtype)) for m in models]


def from_backbones(
    encoders: Sequence[str],
    llms: Sequence[str],
    factors: Sequence[int],
    tokenizer: str | None = None,
) -> list[Case]:
    """Cases of every encoder, pixel shuffle and language model together; projectors are random.

    Args:
        tokenizer: for all of them; by default each language model's own.
    """
    return [
        Case(
            {"model": f"{encoder} + {llm}", "pixel_shuffle": factor},
            partial(_join, encoder, llm, factor, tokenizer or llm),
        )
        for encoder, factor, llm in itertools.product(encoders, factors, llms)
    ]


def _join(encoder: str, llm: str, factor: int, tokenizer_name: str) -> Opened:
    from inlay.data.vision.encoder import encoder_view
    from inlay.data.vision.tiled import MAX_GRID, TiledImageProcessor
    from inlay.models.llava import LLaVAModel
    from inlay.models.lm import default_device, load_causal_lm
    from inlay.models.vision import load_visual_encoder

    tokenizer = load_tokenizer(tokenizer_name)
    tile = encoder_view(encoder)[0].height
    longest = tile * max(1, min(MAX_GRID, LONGEST_SIDE // tile))
    processor = TiledImageProcessor(
        tokenizer, encoder, pixel_shuffle_factor=factor, max_image_size=longest
    )
    model = LLaVAModel(
        load_causal_lm(llm, device="cpu"),
        load_visual_encoder(encoder),
        tokenizer,
        projector="pixel_shuffle",
        pixel_shuffle_factor=factor,
        visual_select_layer=None,
        use_activation_checkpointing=False,
    )
    return Opened(model.to(default_device()).eval(), tokenizer, processor)


def bench(cases: Sequence[Case], work: Work) -> Iterator[dict[str, Any]]:
    """Measure one case after the other; a case that fails has an ``error`` instead of figures.

    Yields:
        The case's name and what ``measure`` returns.
    """
    for case in cases:
        try:
            figures = measure(case.open(), work)
        except InlayError as error:
            figures = {"error": str(error)}
        gc.collect()
        yield {**case.name, **figures}


def measure(opened: Opened, work: Work) -> dict[str, Any]:
    """Let a model answer, greedily and to the full length.

    Returns:
        Medians over the runs: ``vision_s``, ``projector_s`` (None where the model has no module of
        its own for it), ``first_token_s`` (with both and the prompt), ``tokens_per_s`` after the
        first; ``image_tokens``, ``weights_mb``, and ``peak_mb`` (of the GPU; on a CPU of the
        process so far).

    Raises:
        ModelError: the model cannot see, or has no chat template.
    """
    model, processor = opened.model, opened.image_processor
    if processor is None:
        raise ModelError("this model reads text only")
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats(model.device)
    pictures = Pictures(processor)
    pictures.add([work.image])
    question = behind_pictures(work.prompt, 1, processor, None)
    encoder = ChatEncoder(opened.tokenizer, None, processor)
    ids = encoder.prompt_ids([Message("user", question)], pictures.plans())
    rows = []
    for run in range(-work.warmup_runs, work.num_runs):
        row = _answer(model, ids, pictures.inputs(ids), work.max_new_tokens)
        rows += [row] if run >= 0 else []
    medians = {
        key: None if rows[0][key] is None else statistics.median(row[key] for row in rows)
        for key in rows[0]
    }
    weights = {p.data_ptr(): p.nbytes for p in model.parameters()}
    return {
        **medians,
        "image_tokens": ids.count(processor.image_token_id),
        "weights_mb": sum(weights.values()) >> 20,
        "peak_mb": peak_memory(model.device),
    }


def _answer(model: Any, ids: list[int], inputs: dict[str, Any], length: int) -> dict[str, Any]:
    """Seconds of one answer by part."""
    config = GenerationConfig(
        max_new_tokens=length,
        min_new_tokens=length,
        do_sample=False,
        pad_token_id=0,
        use_cache=True,
    )
    clock = _TokenClock(model.device)
    with _watched(model) as spent, torch.inference_mode():
        start = _now(model.device)
        model.generate(
            torch.tensor([ids]).to(model.device),
            generation_config=config,
            stopping_criteria=StoppingCriteriaList([clock]),
            **inputs,
        )
    after_first = clock.times[-1] - clock.times[0]
    return {
        "vision_s": spent.get("vision"),
        "projector_s": spent.get("projector"),
        "first_token_s": clock.times[0] - start,
        "tokens_per_s": (len(clock.times) - 1) / after_first if after_first else None,
    }


class _TokenClock(StoppingCriteria):
    """Takes the time at every new token; never stops."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.times: list[float] = []

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        self.times.append(_now(self.device))
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


@contextmanager
def _watched(model: Any) -> Iterator[dict[str, float]]:
    """Yield the seconds that go into ``vision`` and ``projector``, summed over calls."""
    spent: dict[str, float] = {}
    handles = []
    for part, module in _eyes(model):

        def begin(module: Any, inputs: Any, part: str = part) -> None:
            spent[part] = spent.get(part, 0.0) - _now(model.device)

        def end(module: Any, inputs: Any, output: Any, part: str = part) -> None:
            spent[part] += _now(model.device)

        handles += [module.register_forward_pre_hook(begin), module.register_forward_hook(end)]
    try:
        yield spent
    finally:
        for handle in handles:
            handle.remove()


def _eyes(model: Any) -> list[tuple[str, Any]]:
    """The modules that make up vision encoder and projector, by part."""
    from inlay.models.freeze import part_of

    if hasattr(model, "projector"):
        return [("vision", model.visual_encoder), ("projector", model.projector)]
    found = ((part_of(name), module) for name, module in model.base.model.named_children())
    return [(part, module) for part, module in found if part in ("vision", "projector")]
