"""How coarse masks and words are told to a promptable segmentation model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

Size = tuple[int, int]
"""Two sides in px; which comes first is said where one is taken."""


def mask_prompt(logits: Tensor, inner: Size, side: int, prompt_side: int) -> Tensor:
    """Return coarse masks as SAM takes them: float32 ``[M, 1, prompt_side, prompt_side]``.

    Args:
        logits: ``[M, h, w]``, ``M > 0``, over exactly the picture.
        inner: height and width of the picture inside of SAM's square, which it fills from the top
            left; the rest is as sure to be background as the surest pixel, and at least -1.
        side, prompt_side: of SAM's square and of its mask prompts, in px.
    """
    logits = logits[:, None].float()
    background = logits.detach().min().clamp(max=-1.0)
    square = (side, side), (prompt_side, prompt_side)
    return background + resized_twice(logits - background, inner, *square)


def resized_twice(images: Tensor, first: Size, between: Size, last: Size) -> Tensor:
    """Resize pictures (bilinear), cut or pad them at the right and the bottom, and resize again.

    All of it is linear on each axis, so it is done as one product of matrices: in a third of the
    time of the large pictures in between and without their memory, and on a GPU the gradient has
    the same bits in every run.

    Args:
        images: float32 ``[..., h, w]``.
        first, between, last: height and width in px after each step; what is padded is 0.
    """
    with torch.autocast(images.device.type, enabled=False):
        rows, columns = (
            _bilinear(kept, end, images)[:, : min(px, kept)] @ _bilinear(cells, px, images)[:kept]
            for cells, px, kept, end in zip(images.shape[-2:], first, between, last, strict=True)
        )
        return rows @ images @ columns.T


def _bilinear(cells: int, px: int, like: Tensor) -> Tensor:
    """The matrix ``[px, cells]`` of a bilinear resizing along one axis."""
    unit = torch.eye(cells, dtype=like.dtype, device=like.device)
    return F.interpolate(unit[None], size=px, mode="linear")[0].T


def found_masks(logits: Tensor, size: Size) -> Tensor:
    """Return bool ``[M, H, W]``: where coarse masks ``[M, h, w]`` are, at the picture's size.

    Args:
        size: width and height of the picture, in px.
    """
    odds = logits.detach().float().sigmoid()
    return F.interpolate(odds[:, None], size=size[::-1], mode="bilinear")[:, 0] > 0.5


def boxes_around(masks: Tensor) -> Tensor:
    """Return int64 ``[M, 4]`` (left, top, right, bottom) of masks, right and bottom exclusive.

    Args:
        masks: bool ``[M, H, W]``; the box of an empty mask is the whole picture.
    """
    sides = []
    for line in (masks.any(dim=-2), masks.any(dim=-1)):
        found = line | ~line.any(dim=-1, keepdim=True)
        first = found.int().argmax(dim=-1)
        last = found.shape[-1] - found.flip(-1).int().argmax(dim=-1)
        sides.append((first, last))
    (left, right), (top, bottom) = sides
    return torch.stack([left, top, right, bottom], dim=-1)


def pad_text(text: Sequence[Tensor]) -> tuple[Tensor, Tensor | None]:
    """Return text prompts as one tensor ``[M, T, C]``, and bool ``[M, T]``: which are real.

    Args:
        text: ``[T, C]`` for each mask. Where all are equally long, None takes the place of the
            second tensor.
    """
    lengths = [len(part) for part in text]
    padded = pad_sequence(list(text), batch_first=True)
    if len(set(lengths)) == 1:
        return padded, None
    limits = torch.tensor(lengths, device=padded.device)
    return padded, torch.arange(padded.shape[1], device=padded.device) < limits[:, None]


def nearest_candidates(fine: Tensor, coarse: Tensor) -> Tensor:
    """Return, of candidates ``[M, K, H, W]`` (logits), those with the highest IoU, ``[M, H, W]``.

    Args:
        coarse: bool ``[M, H, W]``; the first candidate is returned for an empty one.
    """
    found, coarse = fine > 0, coarse[:, None]
    shared = (found & coarse).sum(dim=(-2, -1))
    either = (found | coarse).sum(dim=(-2, -1))
    best = (shared / either.clamp(min=1)).argmax(dim=1)
    return fine[torch.arange(len(fine), device=fine.device), best]


@contextmanager
def hidden_keys(transformer: Any, seen: Tensor | None) -> Iterator[None]:
    """Let nothing attend to the padding among the text tokens, which are the last of all tokens.

    Args:
        transformer: the two-way transformer of a mask decoder.
        seen: bool ``[M, T]``, or None where there is no padding.
    """
    if seen is None:
        yield
        return

    def hide(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        others = kwargs["key"].shape[-2] - seen.shape[1]
        unseen = F.pad(~seen, (others, 0))[:, None, None]
        keys = torch.zeros_like(unseen, dtype=torch.float32).masked_fill_(unseen, -torch.inf)
        return args, {**kwargs, "attention_similarity": keys}

    # The two attentions whose keys are tokens; those of the others are the picture.
    hooks = [
        attention.register_forward_pre_hook(hide, with_kwargs=True)
        for layer in transformer.layers
        for attention in (layer.self_attn, layer.cross_attn_image_to_token)
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
