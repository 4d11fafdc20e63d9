"""Grounded samples to one flat row: see ``core.types.Batch`` and ``FrozenGrounding.forward``."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

import numpy as np

from inlay.core.types import Batch, GroundingTarget, Pixels, View
from inlay.data.collate import collate as collate_row
from inlay.data.grounding.sequence import CaptionTokens
from inlay.data.pictures import OpenSample, PictureOpener


@dataclass(slots=True)
class GroundedSample:
    """A picture with a caption and its masks.

    Attributes:
        tokens: prompt and caption.
        size: width and height of the picture in px.
        views: where its image tokens lie in it.
        masks: uint8 ``[M, H, W]``, 0 or 1.
        pixels: of the multimodal model; None where the cache has what it gives.
        tiles: pictures that its vision encoder sees.
        picture: uint8 ``[3, h, w]`` for the refiner, without an element where its embedding is
            cached; None where there is no refiner.
        picture_key, text_key: see ``GroundingTarget``.
    """

    tokens: CaptionTokens
    size: tuple[int, int]
    views: tuple[View, ...]
    masks: np.ndarray
    pixels: Pixels | None
    tiles: int
    picture: np.ndarray | None
    picture_key: str
    text_key: str


def collate(samples: Sequence[GroundedSample], opener: PictureOpener) -> Batch:
    """Join samples into one micro-batch; those that are cached have no document in its row."""
    import torch

    fresh = [sample for sample in samples if sample.pixels is not None]
    starts = list(accumulate((len(s.tokens.ids) for s in fresh), initial=0))
    first_masks = list(accumulate((len(s.masks) for s in samples), initial=0))
    rows, names = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    targets = []
    documents = itertools.count()
    for sample, first in zip(samples, first_masks, strict=False):
        document = None if sample.pixels is None else next(documents)
        targets.append(_target(sample, first, document))
        if document is not None:
            rows.append(sample.tokens.caption_rows + starts[document])
            named = sample.tokens.mask_ids
            names.append(np.where(named >= 0, named + first, -1))
    inputs = {
        "row": _row(fresh, opener) if fresh else None,
        "caption_rows": torch.from_numpy(np.concatenate(rows)),
        "caption_masks": torch.from_numpy(np.concatenate(names)),
        "targets": targets,
        "masks": [torch.from_numpy(s.masks) for s in samples],
        "pictures": [torch.from_numpy(s.picture) for s in samples if s.picture is not None],
    }
    return Batch(
        inputs,
        loss_units=first_masks[-1],
        num_samples=len(samples),
        num_tokens=sum(len(s.tokens.ids) for s in samples),
        num_images=len(samples),
    )


def stand_in(sample: GroundedSample, opener: PictureOpener) -> Batch:
    """The same sample without anything to train: it counts as no sample, no token."""
    batch = collate([sample], opener)
    return replace(
        batch,
        inputs={**batch.inputs, "trained": False},
        loss_units=0,
        num_samples=0,
        num_tokens=0,
        num_images=0,
    )


def _row(samples: Sequence[GroundedSample], opener: PictureOpener) -> dict[str, object]:
    """Their documents end to end, as of every batch, without what is only for training words."""
    documents = [
        OpenSample(s.tokens.ids, np.zeros(len(s.tokens.ids), np.bool_), (), s.tiles, [s.pixels])
        for s in samples
        if s.pixels is not None
    ]
    inputs = collate_row(documents, opener).inputs
    return {k: v for k, v in inputs.items() if k not in ("labels", "trained_positions")}


def _target(sample: GroundedSample, first_mask: int, document: int | None) -> GroundingTarget:
    return GroundingTarget(
        size=sample.size,
        views=sample.views,
        first_token=0,
        first_mask=first_mask,
        num_masks=len(sample.masks),
        document=document,
        picture_key=sample.picture_key,
        text_key=sample.text_key,
    )
