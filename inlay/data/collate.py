"""Samples to one flat row, documents end to end without padding, and their pictures beside it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from inlay.core.types import IGNORE_INDEX, Batch, Sample
from inlay.data.pictures import OpenSample, PictureOpener

if TYPE_CHECKING:
    import torch


def collate(samples: Sequence[Sample], opener: PictureOpener | None = None) -> Batch:
    """Join samples into one micro-batch, as ``Batch.inputs`` describes it.

    Args:
        samples: of a data set with pictures those with pictures are opened.
        opener: of a model with eyes: a row without any picture then ends with a blank one, an
            untrained document that counts as no sample and no token.
    """
    import torch

    pixels = [p for s in samples if isinstance(s, OpenSample) for p in s.pixels]
    documents = list(samples)
    if opener is not None and not pixels:
        documents.append(opener.blank)
        pixels = list(opener.blank.pixels)
    lengths = np.fromiter((len(s.ids) for s in documents), np.int64, len(documents))
    starts = np.zeros(len(documents) + 1, np.int64)
    np.cumsum(lengths, out=starts[1:])
    ids = np.empty(int(starts[-1]), np.int64)
    np.concatenate([s.ids for s in documents], out=ids)
    mask = np.concatenate([s.mask for s in documents])
    positions = np.arange(len(ids)) - np.repeat(starts[:-1], lengths)
    inputs = {
        "input_ids": torch.from_numpy(ids)[None],
        "labels": torch.from_numpy(np.where(mask, ids, IGNORE_INDEX))[None],
        "position_ids": torch.from_numpy(positions)[None],
        "doc_starts": torch.from_numpy(starts.astype(np.int32)),
        # Found here, on the CPU: on a GPU each would cost a wait for the device.
        "trained_positions": torch.from_numpy(np.flatnonzero(mask[1:])),
        "longest_document": int(lengths.max()),
    }
    if opener is not None:
        inputs["images"] = _joined(pixels)
        positions = np.flatnonzero(ids == opener.processor.image_token_id)
        inputs["image_positions"] = torch.from_numpy(positions)
    return Batch(
        inputs,
        loss_units=int(np.count_nonzero(mask)),
        num_samples=len(samples),
        num_tokens=int(starts[len(samples)]),
        num_images=sum(len(s.images) for s in samples),
    )


def stand_in(samples: Sequence[Sample], opener: PictureOpener | None = None) -> Batch:
    """The same tokens and pictures without anything to train: it counts as no sample, no token."""
    batch = collate(samples, opener)
    batch.inputs["labels"].fill_(IGNORE_INDEX)
    batch.inputs["trained_positions"] = batch.inputs["trained_positions"][:0]
    return Batch(batch.inputs, 0, 0, 0)


def _joined(pixels: Sequence[dict[str, np.ndarray]]) -> dict[str, torch.Tensor]:
    import torch

    return {
        name: torch.from_numpy(np.concatenate([found[name] for found in pixels]))
        for name in pixels[0]
    }
