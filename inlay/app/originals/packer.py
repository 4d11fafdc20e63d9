"""What the original's packer does to samples of given lengths, in numbers."""

from __future__ import annotations

from dataclasses import astuple, dataclass

import numpy as np

ROWS_PER_CALL = 1000
"""Rows that ``datasets.map`` hands to a batched function at once, its default."""


@dataclass(frozen=True)
class Cuts:
    """What becomes of a data set.

    Attributes:
        samples, tokens: before packing.
        packs: what is trained on in an epoch.
        workers: times that rows are packed by a process of its own.
        cut: samples whose tokens do not stay together.
        gone: samples without a token left.
        lost: tokens that are thrown away.
    """

    samples: int = 0
    tokens: int = 0
    packs: int = 0
    workers: int = 0
    cut: int = 0
    gone: int = 0
    lost: int = 0

    def __add__(self, other: Cuts) -> Cuts:
        return Cuts(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))

    @property
    def pieces_per_pack(self) -> float:
        """Samples, or pieces of samples, in a pack, on average."""
        return (self.samples - self.gone + self.cut) / self.packs if self.packs else 0.0


def cut(lengths: np.ndarray, max_length: int, workers: int) -> Cuts:
    """Count what XTuner 0.1.23 does with ``pack_to_max_length``.

    Each worker gets an equal run of rows, and of these 1000 at a time. It appends them to what was
    left over, cuts every ``max_length`` tokens and keeps the rest for its next rows. Where all
    that is fewer than ``max_length`` tokens, it becomes a short pack. What is left over after the
    last rows is thrown away.

    Args:
        lengths: int ``[N]`` tokens of each sample, in [1, max_length], in the order of packing.
        max_length: tokens of a pack.
        workers: ``map_num_proc``; there are never more than rows.
    """
    lengths = np.asarray(lengths, np.int64)
    workers = min(workers, len(lengths))
    if not workers:
        return Cuts()
    total = np.zeros(4, np.int64)  # packs, cut, gone, lost
    for rows in np.array_split(lengths, workers):
        total += _one_worker(rows, max_length)
    packs, parted, gone, lost = total.tolist()
    return Cuts(len(lengths), int(lengths.sum()), packs, workers, parted, gone, lost)


def _one_worker(lengths: np.ndarray, max_length: int) -> np.ndarray:
    """Return int64 ``[4]``: packs, samples cut, samples gone, tokens lost."""
    packs = parted = gone = left = 0
    for first in range(0, len(lengths), ROWS_PER_CALL):
        part = lengths[first : first + ROWS_PER_CALL]
        ends = left + np.cumsum(part)  # as counted from the first token that was left over
        begins = ends - part
        parted += int(np.count_nonzero(begins // max_length != (ends - 1) // max_length))
        tokens = int(ends[-1])
        if tokens < max_length:
            packs, left, gone = packs + 1, 0, 0
            continue
        packs, left = packs + tokens // max_length, tokens % max_length
        gone = int(np.count_nonzero(begins >= tokens - left))
    return np.array([packs, parted, gone, left])
