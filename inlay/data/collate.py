"""Samples to one flat row: documents end to end, no padding."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from inlay.core.types import IGNORE_INDEX, Batch, Sample


def collate(samples: Sequence[Sample]) -> Batch:
    """Join samples into one micro-batch, as ``Batch.inputs`` describes it."""
    import torch

    lengths = np.fromiter((len(s.ids) for s in samples), np.int64, len(samples))
    starts = np.zeros(len(samples) + 1, np.int64)
    np.cumsum(lengths, out=starts[1:])
    total = int(starts[-1])
    ids = np.empty(total, np.int64)
    np.concatenate([s.ids for s in samples], out=ids)
    mask = np.concatenate([s.mask for s in samples])
    positions = np.arange(total) - np.repeat(starts[:-1], lengths)
    inputs = {
        "input_ids": torch.from_numpy(ids)[None],
        "labels": torch.from_numpy(np.where(mask, ids, IGNORE_INDEX))[None],
        "position_ids": torch.from_numpy(positions)[None],
        "doc_starts": torch.from_numpy(starts.astype(np.int32)),
        # Found here, on the CPU: on a GPU each would cost a wait for the device.
        "trained_positions": torch.from_numpy(np.flatnonzero(mask[1:])),
        "longest_document": int(lengths.max()),
    }
    return Batch(inputs, int(np.count_nonzero(mask)), len(samples), total)


def stand_in(samples: Sequence[Sample]) -> Batch:
    """The same tokens without anything to train: it counts as no sample and no token."""
    batch = collate(samples)
    batch.inputs["labels"].fill_(IGNORE_INDEX)
    batch.inputs["trained_positions"] = batch.inputs["trained_positions"][:0]
    return Batch(batch.inputs, 0, 0, 0)
