"""Looking into a running model: a registered attention function, and hooks on its layers.

The model's output is that of ``packed_attention`` to the last bit; whoever records sees the queries
and keys of every layer of one decoder beside it, and computes only the rows that it wants. So no
``[heads, N, N]`` is ever built, as ``output_attentions=True`` would.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

from inlay.core.errors import ModelError
from inlay.models.attention import packed_attention

NAME = "inlay_capture"
WITH_ROWS = ("full_attention", "sliding_attention", "chunked_attention")
"""Layer types of transformers whose attention is a softmax over keys."""
UNSUPPORTED = {
    "s_aux": "attention sinks",
    "position_bias": "learned position biases",
    "cache": "a paged cache",
}
"""Arguments of attention functions that change the rows in ways that are not known here."""


@dataclass(frozen=True)
class Queries:
    """Places of one sequence, and the keys ``[start, stop)`` that hold all that they see.

    Attributes:
        batch: number of the sequence.
        places: int64 ``[T]``; first: the least of them.
    """

    batch: int
    places: Tensor
    first: int
    start: int
    stop: int


@dataclass(frozen=True)
class AttentionCall:
    """What one layer hands to its attention function.

    Attributes:
        query: ``[B, H, N, D]`` after rotary embedding; key: ``[B, Hkv, n, D]`` with the cache.
        mask: None, document borders (int32, see ``attention.document_mask``), or a mask bool or
            additive ``[B or 1, H or 1, N, n]``.
        causal: whether place i sees keys up to i, where no mask says more.
        scaling: of the scores; softcap: None, or where ``tanh`` bounds them.
        window: keys that a place sees, itself included; 0 for all. A mask has it in it already.
    """

    query: Tensor
    key: Tensor
    mask: Tensor | None
    causal: bool
    scaling: float
    softcap: float | None
    window: int

    @property
    def doc_starts(self) -> Tensor | None:
        """int32 ``[D + 1]`` document borders where the call has a flat row of documents."""
        packed = self.mask is not None and self.mask.dtype == torch.int32
        return self.mask.flatten() if packed and self.mask is not None else None

    def rows(self, queries: Queries) -> Tensor:
        """Return attention probabilities float32 ``[H, T, stop - start]``.

        Keys are not repeated for grouped heads: the queries of a group share one product.
        """
        heads, width = self.query.shape[1], self.query.shape[3]
        with torch.autocast(self.query.device.type, enabled=False):
            query = self.query[queries.batch].index_select(1, queries.places).float()
            key = self.key[queries.batch, :, queries.start : queries.stop].float()
            scores = (query * self.scaling).view(len(key), -1, width) @ key.transpose(1, 2)
            scores = scores.view(heads, len(queries.places), -1)
            if self.softcap is not None:
                scores = self.softcap * torch.tanh(scores / self.softcap)
            return torch.softmax(self._masked(scores, queries), dim=-1)

    def _masked(self, scores: Tensor, queries: Queries) -> Tensor:
        places, start, stop = queries.places, queries.start, queries.stop
        packed = self.doc_starts is not None
        if self.mask is not None and not packed:
            own = self.mask[queries.batch if len(self.mask) > 1 else 0]
            own = own.index_select(1, places)[..., start:stop]
            if own.dtype == torch.bool:
                return scores.masked_fill_(~own, float("-inf"))
            return scores + own.float()
        if self.causal:
            window = self.window if packed else 0
            begin = start if window else queries.first  # before it nothing is in the future
            behind = places[:, None] - torch.arange(begin, stop, device=places.device)
            unseen = behind < 0
            if window:
                unseen |= behind >= window
            scores[..., begin - start :].masked_fill_(unseen, float("-inf"))
        return scores


class Recorder(Protocol):
    """Sees a decoder at work, without gradients."""

    def attention(self, layer: int, call: AttentionCall) -> None:
        """Take what layer ``layer`` is about to attend."""

    def hidden(self, layer: int, states: Tensor) -> None:
        """Take the output ``[B, N, D]`` of a layer; of the last one after the final norm."""


_watched: WeakKeyDictionary[nn.Module, tuple[Recorder, int]] = WeakKeyDictionary()


def capture_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """``packed_attention``; in a layer that is recorded the recorder is called first.

    Raises:
        ModelError: the layer that is recorded has attention sinks or the like.
    """
    watched = _watched.get(module)
    if watched is not None:
        recorder, layer = watched
        call = _call(module, query, key, attention_mask, scaling, kwargs)
        with torch.no_grad():
            recorder.attention(layer, call)
    return packed_attention(
        module, query, key, value, attention_mask, scaling=scaling, dropout=dropout, **kwargs
    )


def _call(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    mask: Tensor | None,
    scaling: float | None,
    kwargs: dict[str, Any],
) -> AttentionCall:
    for name, what in UNSUPPORTED.items():
        if kwargs.get(name) is not None:
            raise ModelError(
                f"{type(module).__name__} uses {what} ('{name}'): its attention rows cannot be "
                "captured. Ground another model."
            )
    causal = kwargs.get("is_causal")
    causal = getattr(module, "is_causal", True) if causal is None else causal
    packed = mask is not None and mask.dtype == torch.int32
    return AttentionCall(
        query=query,
        key=key,
        mask=mask,
        causal=packed or (bool(causal) and query.shape[2] > 1),
        scaling=query.shape[-1] ** -0.5 if scaling is None else scaling,
        softcap=kwargs.get("softcap"),
        window=kwargs.get("sliding_window") or 0,
    )


def layers_with_rows(decoder: Any) -> tuple[int, ...]:
    """Return the numbers of a decoder's layers whose attention has rows to capture."""
    types = getattr(decoder.config, "layer_types", None) or [WITH_ROWS[0]] * len(decoder.layers)
    return tuple(i for i, kind in enumerate(types) if kind in WITH_ROWS)


@contextmanager
def recording(decoder: Any, recorder: Recorder) -> Iterator[None]:
    """Let ``recorder`` see every call of ``decoder``, in any thread, as long as the block runs.

    Args:
        decoder: a text model of transformers with ``layers`` and ``norm``.

    Raises:
        ModelError: it is being recorded already.
    """
    owners = {m: i for i, layer in enumerate(decoder.layers) for m in layer.modules()}
    if any(module in _watched for module in owners):
        raise ModelError(f"{type(decoder).__name__} is being captured already: one at a time")
    before = decoder.config._attn_implementation
    decoder.set_attn_implementation(NAME)
    last = len(decoder.layers) - 1
    hooks = [
        module.register_forward_hook(_hook(recorder, number))
        for number, module in enumerate([*decoder.layers[:last], decoder.norm])
    ]
    try:
        _watched.update({module: (recorder, number) for module, number in owners.items()})
        yield
    finally:
        for module in owners:
            _watched.pop(module, None)
        for hook in hooks:
            hook.remove()
        decoder.set_attn_implementation(before)


def _hook(recorder: Recorder, layer: int) -> Any:
    @torch.no_grad()
    def take(module: nn.Module, inputs: Any, output: Any) -> None:
        recorder.hidden(layer, output[0] if isinstance(output, tuple) else output)

    return take


AttentionInterface.register(NAME, capture_attention)
AttentionMaskInterface.register(NAME, ALL_MASK_ATTENTION_FUNCTIONS["sdpa"])
