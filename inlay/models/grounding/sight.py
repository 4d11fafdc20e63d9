"""What a frozen multimodal model shows of a caption, as the heads read it and as it is kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from inlay.core.types import Box, GroundingTarget, View
from inlay.models.grounding.adapters.base import Adapter
from inlay.models.grounding.capture import Grounded
from inlay.models.grounding.maps import assemble


@dataclass(slots=True)
class Sight:
    """What the frozen model shows of one sample.

    Attributes:
        maps: float32 ``[M, C, h, w]``, one picture of attention for each mask.
        canvas: what the maps cover, in px of the picture.
        hidden: ``[L, T, D]`` hidden states of its caption tokens, layer by layer.
        masks: int64 ``[T]``: which of the ``M`` masks each token names, or -1.
    """

    maps: Tensor
    canvas: Box
    hidden: Tensor
    masks: Tensor

    def named(self) -> Sight:
        """Return it without the tokens that name no mask."""
        named = (self.masks >= 0).nonzero(as_tuple=True)[0]
        return Sight(self.maps, self.canvas, self.hidden[:, named], self.masks[named])

    def to(self, device: torch.device) -> Sight:
        """Return it on a device."""
        tensors = (self.maps, self.hidden, self.masks)
        maps, hidden, masks = (tensor.to(device) for tensor in tensors)
        return Sight(maps, self.canvas, hidden, masks)


def picture_maps(lmm: Adapter, columns_MCK: Tensor, views: Sequence[View]) -> tuple[Tensor, Box]:
    """Return the maps of masks and what they cover, channels as mask heads of ``lmm`` have them.

    Args:
        columns_MCK: attention at the picture's image tokens.
    """
    maps, canvas = assemble(columns_MCK, views)
    if lmm.levels_by_layer:
        layers = maps.unflatten(1, (-1, lmm.num_map_layers, lmm.num_heads))
        maps = layers.transpose(1, 2).flatten(1, 3)
    return maps, canvas


def look(
    lmm: Adapter,
    row: dict[str, Any],
    caption_rows: Tensor,
    caption_masks: Tensor,
    targets: Sequence[GroundingTarget],
    merge: str = "mean",
) -> list[Sight]:
    """Run a frozen model on a row of documents, one for each target, and return what it shows.

    Args:
        caption_rows, caption_masks: as in ``FrozenGrounding.forward``.
        merge: how the tokens of a mask are joined, ``"mean"`` or ``"max"``.
    """
    starts = row["doc_starts"].tolist()
    spans = [
        (starts[t.document], starts[t.document + 1]) for t in targets if t.document is not None
    ]
    # The masks of cached samples are not in the row: number those that are from 0.
    firsts = [sum(t.num_masks for t in targets[:n]) for n in range(len(targets))]
    masks = torch.full_like(caption_masks, -1)
    columns: list[Tensor] = []
    for first, target, span in zip(firsts, targets, spans, strict=True):
        places = row["image_positions"]
        places = places[_inside(places, span)][target.first_token :]
        columns += [places[: _num_tokens(target)]] * target.num_masks
        own = caption_masks - target.first_mask
        masks = torch.where((own >= 0) & (own < target.num_masks), own + first, masks)
    table = torch.nn.utils.rnn.pad_sequence(columns, batch_first=True, padding_value=-1)
    tokens = Grounded(torch.zeros_like(caption_rows), caption_rows, masks, table, merge)
    seen = lmm.look(row, tokens)
    sights = []
    for first, target, span in zip(firsts, targets, spans, strict=True):
        own_maps = seen.maps[first : first + target.num_masks, :, : _num_tokens(target)]
        maps, canvas = picture_maps(lmm, own_maps, target.views)
        mine = _inside(caption_rows, span).nonzero(as_tuple=True)[0]
        numbers = masks[mine]
        numbers = torch.where(numbers >= 0, numbers - first, -1)
        sights.append(Sight(maps, canvas, seen.hidden[:, mine], numbers))
    return sights


def _inside(places: Tensor, span: tuple[int, int]) -> Tensor:
    return (places >= span[0]) & (places < span[1])


def _num_tokens(target: GroundingTarget) -> int:
    """How many image tokens the views of a picture reach over."""
    return max(v.start + (v.height - 1) * v.stride + v.width for v in target.views)


def packed(sight: Sight) -> dict[str, Tensor]:
    """Return a sight as the cache keeps it: maps in half precision beside their greatest values,
    since probabilities over thousands of tokens lie below what half precision resolves."""
    peak = sight.maps.amax(dim=(-2, -1), keepdim=True).clamp(min=1e-30)
    return {
        "maps": (sight.maps / peak).half(),
        "peak": peak,
        "canvas": torch.tensor(sight.canvas, dtype=torch.float64),
        "hidden": sight.hidden.to(torch.bfloat16),
        "masks": sight.masks,
    }


def unpacked(kept: dict[str, Tensor], device: torch.device) -> Sight:
    """Return the sight that ``packed`` was given: maps to 5e-4 of their values or 3e-8 of their
    greatest one, hidden states to 4e-3 of theirs."""
    left, top, right, bottom = kept["canvas"].tolist()
    tensors = {name: value.to(device) for name, value in kept.items() if name != "canvas"}
    maps = tensors["maps"].float() * tensors["peak"]
    return Sight(maps, (left, top, right, bottom), tensors["hidden"], tensors["masks"])


def packed_bytes(
    views: Sequence[View], num_masks: int, channels: int, num_tokens: int, width: int
) -> int:
    """Return the bytes of ``packed``, known before anything is computed.

    Args:
        views: of the picture.
        channels: maps of each mask.
        num_tokens: hidden states that are kept; ``width`` values each, of all layers.
    """
    finest = max(view.level for view in views)
    cells = sum(view.height * view.width for view in views if view.level == finest)
    return num_masks * channels * (2 * cells + 4) + 32 + num_tokens * (2 * width + 8)
