"""Attention rows of grounded tokens, merged for each mask while the model runs.

What F-LMM (arXiv 2406.05821, section 3.2) looks at: how much each layer and head of a frozen model
attends from the words that name a mask to the image tokens. Only these rows are computed; the
model itself runs as ever.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from inlay.core.errors import ModelError, did_you_mean
from inlay.models.grounding.recording import (
    AttentionCall,
    Queries,
    layers_with_rows,
    recording,
)

MERGES: dict[str, Callable[..., Tensor]] = {"mean": torch.mean, "max": torch.amax}


@dataclass(frozen=True)
class Grounded:
    """Tokens to look at, and what they name.

    Attributes:
        batch: int64 ``[T]`` the sequence of each token; 0 in a flat row of documents.
        rows: int64 ``[T]`` its place in the sequence (in the row).
        masks: int64 ``[T]`` the mask that it names, 0 to M - 1, or -1 where only its hidden states
            are wanted. A mask's tokens belong to one sequence (one document).
        columns: int64 ``[M, K]`` places of the image tokens of each mask, -1 behind the last.
        merge: ``"mean"`` or ``"max"`` over the tokens of a mask.

    Raises:
        ModelError: no such ``merge``, no token, or lengths that differ.
    """

    batch: Tensor
    rows: Tensor
    masks: Tensor
    columns: Tensor
    merge: str = "mean"

    def __post_init__(self) -> None:
        _require_merge(self.merge)
        if not len(self.rows) or not len(self.batch) == len(self.rows) == len(self.masks):
            raise ModelError(
                "expected one or more tokens, each with batch, row and mask: found "
                f"{len(self.batch)}, {len(self.rows)} and {len(self.masks)}"
            )

    def cpu(self) -> Grounded:
        """Return it on the CPU."""
        names = ("batch", "rows", "masks", "columns")
        return replace(self, **{name: getattr(self, name).cpu() for name in names})


@dataclass
class Seen:
    """What grounded tokens look at; filled when the ``capture`` ends.

    Attributes:
        maps: float32 ``[M, C, K]`` attention probabilities at the image tokens, 0 behind the last
            one; channel ``i * H + h`` is head h of layer ``layers[i]``. The softmax runs over all
            keys that the token sees.
        hidden: ``[L, T, D]`` outputs of the decoder's layers at the tokens, the last one after the
            final norm, in the model's dtype.
        layers: numbers of the layers in ``maps``.
    """

    maps: Tensor = field(default_factory=lambda: torch.empty(0))
    hidden: Tensor = field(default_factory=lambda: torch.empty(0))
    layers: tuple[int, ...] = ()


@contextmanager
def capture(decoder: Any, grounded: Grounded) -> Iterator[Seen]:
    """Capture one forward pass of a model over the sequences of ``grounded``.

    It may see a flat row of documents, or a padded batch with the library's masks. A token in a
    layer with a sliding window sees image tokens within it only; said once.

    Args:
        decoder: the text model inside the model that is run.

    Raises:
        ModelError: tokens, masks and sequences do not fit together, the model did not run or ran
            twice, or its attention is not of the library's interface.
    """
    recorder = _GroundedRows(decoder, grounded)
    seen = Seen()
    with recording(decoder, recorder):
        yield seen
    seen.maps, seen.hidden, seen.layers = recorder.result()


@dataclass(frozen=True)
class _Group:
    """Grounded tokens that see the same keys, sorted by mask.

    Attributes:
        masks: int64 ``[m]`` the masks that they name; counts: tokens of each.
        columns: int64 ``[m, K]`` image tokens of each mask, counted from the first key.
    """

    queries: Queries
    masks: Tensor
    counts: list[int]
    columns: Tensor


class _GroundedRows:
    """Records the grounded tokens of one forward pass."""

    def __init__(self, decoder: Any, grounded: Grounded) -> None:
        self.decoder, self.grounded = decoder, grounded
        self.layers = layers_with_rows(decoder)
        self.groups: list[_Group] = []
        self.maps: Tensor | None = None
        self.states: dict[int, Tensor] = {}
        self.taken: set[int] = set()

    def attention(self, layer: int, call: AttentionCall) -> None:
        if self.maps is None:
            self.groups = _groups(self.grounded.cpu(), call)
            masks, columns = self.grounded.columns.shape
            shape = (masks, len(self.layers), call.query.shape[1], columns)
            self.maps = torch.zeros(shape, dtype=torch.float32, device=call.query.device)
        if layer in self.taken or layer not in self.layers:
            raise _not_one_pass(self.decoder)
        self.taken.add(layer)
        if any(0 < call.window < g.queries.stop - g.queries.start for g in self.groups):
            say_window(type(self.decoder).__name__, call.window)
        for group in self.groups:
            rows_HTN = call.rows(group.queries)
            merged_MHN = _merged(rows_HTN.transpose(0, 1), group.counts, self.grounded.merge)
            index = group.columns[:, None].expand(-1, merged_MHN.shape[1], -1)
            self.maps[group.masks, self.layers.index(layer)] = merged_MHN.gather(2, index)

    def hidden(self, layer: int, states: Tensor) -> None:
        batch, rows = (x.to(states.device) for x in (self.grounded.batch, self.grounded.rows))
        self.states[layer] = states[batch, rows]

    def result(self) -> tuple[Tensor, Tensor, tuple[int, ...]]:
        if self.maps is None or self.taken != set(self.layers):
            raise _not_one_pass(self.decoder)
        behind = (self.grounded.columns < 0)[:, None].to(self.maps.device)
        maps = self.maps.flatten(1, 2).masked_fill_(behind, 0.0)
        hidden = torch.stack([self.states[i] for i in range(len(self.decoder.layers))])
        return maps, hidden, self.layers


def _groups(grounded: Grounded, call: AttentionCall) -> list[_Group]:
    """Sort the tokens that name masks by the keys that they see.

    Args:
        grounded: on the CPU, since every value of it that is asked for on a GPU is waited for.
    """
    _require_inside(grounded, call)
    device, keys = call.query.device, call.key.shape[2]
    named = (grounded.masks >= 0).nonzero(as_tuple=True)[0]
    named = named[grounded.masks[named].argsort(stable=True)]
    batch, rows, masks = (x[named] for x in (grounded.batch, grounded.rows, grounded.masks))
    columns = grounded.columns
    if call.doc_starts is None:
        sequences, spans = batch, [(0, keys)] * call.query.shape[0]
    else:
        borders = call.doc_starts.cpu().long()
        sequences = torch.bucketize(rows, borders[1:-1], right=True)
        spans = list(pairwise(borders.tolist()))
    groups, found = [], []
    for sequence in sequences.unique().tolist():
        here = sequences == sequence
        start, stop = spans[sequence]
        numbers, counts = masks[here].unique_consecutive(return_counts=True)
        own = columns[numbers]
        require_own(own, start, stop)
        queries = Queries(
            batch=int(batch[here][0]),
            places=rows[here].to(device),
            first=int(rows[here].min()),
            start=start,
            stop=stop,
        )
        places = (own - start).clamp(min=0).to(device)
        groups.append(_Group(queries, numbers.to(device), counts.tolist(), places))
        found.append(numbers)
    require_each_once(found, len(columns))
    return groups


def _require_inside(grounded: Grounded, call: AttentionCall) -> None:
    """Hold numbers against what there is, since an index on a GPU fails without words."""
    sequences, places, keys = call.query.shape[0], call.query.shape[2], call.key.shape[2]
    limits = {
        "batch": (grounded.batch, 0, sequences),
        "rows": (grounded.rows, 0, places),
        "masks": (grounded.masks, -1, len(grounded.columns)),
        "columns": (grounded.columns, -1, keys),
    }
    for name, (values, least, limit) in limits.items():
        if values.numel() and not least <= int(values.min()) <= int(values.max()) < limit:
            raise ModelError(
                f"{name} of the grounded tokens must be from {least} to {limit - 1} ({sequences} "
                f"sequences of {places} tokens, {len(grounded.columns)} masks), found "
                f"{int(values.min())} to {int(values.max())}"
            )


def require_own(columns: Tensor, start: int, stop: int) -> None:
    """Hold places of image tokens against the document ``[start, stop)`` of those who look.

    Raises:
        ModelError: one lies in another document.
    """
    odd = columns[(columns >= 0) & ((columns < start) | (columns >= stop))]
    if len(odd):
        raise ModelError(
            f"a mask's image token at {int(odd[0])} lies outside of the document of its words, "
            f"which is [{start}, {stop}): expected both in one document"
        )


def require_each_once(found: Sequence[Tensor], num_masks: int) -> None:
    """Hold the masks that the documents (or sequences) name against those that there are.

    Raises:
        ModelError: a mask has no token, or tokens in several documents.
    """
    times = torch.bincount(
        torch.cat([x.cpu() for x in found] or [torch.zeros(0).long()]), minlength=num_masks
    )
    odd = (times != 1).nonzero(as_tuple=True)[0].tolist()
    if odd:
        raise ModelError(
            f"masks {odd} of {num_masks} are named by no token, or by tokens of several documents: "
            "each needs tokens of one document"
        )


def merge_rows(rows: Tensor, masks: Tensor, merge: str = "mean") -> Tensor:
    """Join the rows of tokens that name the same mask.

    Args:
        rows: float ``[T, C, K]`` attention of each token.
        masks: int64 ``[T]`` the mask of each, 0 to M - 1, or -1 for none.
        merge: ``"mean"`` or ``"max"``.

    Returns:
        ``[M, C, K]``.

    Raises:
        ModelError: no such ``merge``, or a mask between others without tokens.
    """
    _require_merge(merge)
    order = masks.argsort(stable=True)
    order = order[masks[order] >= 0]
    numbers, counts = masks[order].unique_consecutive(return_counts=True)
    require_each_once([numbers], int(numbers[-1]) + 1 if len(numbers) else 0)
    if not len(numbers):
        return rows[:0]
    return _merged(rows[order.to(rows.device)], counts.tolist(), merge)


def _merged(rows_THK: Tensor, counts: list[int], merge: str) -> Tensor:
    """Join so many rows after another each: ``[m, H, K]``."""
    reduce = MERGES[merge]
    return torch.stack([reduce(part, dim=0) for part in rows_THK.split(counts)])


def _require_merge(merge: str) -> None:
    if merge not in MERGES:
        raise ModelError(
            f"merge must be one of {', '.join(MERGES)}, found '{merge}'."
            f"{did_you_mean(merge, MERGES)}"
        )


@cache
def say_window(model: str, window: int) -> None:
    """Say once that a window hides image tokens."""
    logging.getLogger(__name__).warning(
        "%s has layers whose tokens see no further back than %d tokens: in their maps image tokens "
        "behind that have attention 0.",
        model,
        window,
    )


def _not_one_pass(decoder: Any) -> ModelError:
    return ModelError(
        f"{type(decoder).__name__} was not seen in exactly one forward pass: a capture covers one, "
        "and every layer must take its attention from transformers' AttentionInterface"
    )
