"""Packing by index: which samples share a sequence of at most ``max_length`` tokens."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Packs:
    """A partition of samples into packs.

    Attributes:
        order: int64 ``[N]`` sample indices, pack after pack.
        offsets: int64 ``[P + 1]``; pack ``p`` is ``order[offsets[p]:offsets[p + 1]]``.
    """

    order: np.ndarray
    offsets: np.ndarray

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, index: int) -> np.ndarray:
        """Sample indices of one pack."""
        return self.order[self.offsets[index] : self.offsets[index + 1]]

    def sums(self, values: np.ndarray) -> np.ndarray:
        """int64 ``[P]`` sums over packs of ``values`` (``[N]``, by sample index)."""
        return np.add.reduceat(values[self.order], self.offsets[:-1], dtype=np.int64)


def one_each(count: int) -> Packs:
    """Every sample alone."""
    return Packs(np.arange(count, dtype=np.int64), np.arange(count + 1, dtype=np.int64))


def best_fit(lengths: np.ndarray, max_length: int, window: int = 10_000, seed: int = 0) -> Packs:
    """Pack samples by best fit decreasing, window by window of a seeded permutation.

    A sample goes to the fullest pack that still has room for it; packs with room left stay open
    for the windows that follow. Equal lengths are placed together, so that the work grows with the
    distinct lengths of a window, not with its samples.

    Args:
        lengths: int ``[N]`` tokens per sample, in [1, max_length].
        max_length: tokens of a pack.
        window: samples per window.
        seed: of the permutation; the result depends on nothing else.

    Returns:
        Packs over all samples, each once; samples of a pack in the permutation's order.

    Raises:
        ValueError: a length outside [1, max_length].
    """
    lengths = np.asarray(lengths)
    if len(lengths) and not 1 <= lengths.min() <= lengths.max() <= max_length:
        raise ValueError(f"lengths must be in [1, {max_length}]")
    shuffled = np.random.default_rng([seed, 0x7061636B]).permutation(len(lengths))
    pack_of = np.empty(len(lengths), np.int64)  # by position in the permutation
    room = _Room(max_length)
    for start in range(0, len(shuffled), window):
        found = lengths[shuffled[start : start + window]]
        by_length = np.argsort(-found, kind="stable")
        pack_of[start + by_length] = _place(found[by_length], room)
    by_pack = np.argsort(pack_of, kind="stable")
    counts = np.bincount(pack_of, minlength=room.num_packs)
    return Packs(shuffled[by_pack], np.concatenate([[0], np.cumsum(counts)]))


class _Room:
    """Open packs by the tokens that they have left."""

    def __init__(self, max_length: int) -> None:
        self.max_length = max_length
        self.num_packs = 0
        self.packs: list[list[int]] = [[] for _ in range(max_length + 1)]
        self.left = 0  # bit r is set where packs with r tokens left exist

    def add(self, room: int, packs: list[int]) -> None:
        if room and packs:
            self.packs[room].extend(packs)
            self.left |= 1 << room

    def tightest(self, length: int, wanted: int) -> tuple[int, list[int]]:
        """Take packs with the least room for ``length``, enough for ``wanted`` samples.

        Returns:
            The room of each, and the packs: some of the open ones, or new ones.
        """
        fitting = self.left >> length
        if not fitting:
            room = self.max_length
            count = -(-wanted // (room // length))
            first, self.num_packs = self.num_packs, self.num_packs + count
            return room, list(range(first, first + count))
        room = length + (fitting & -fitting).bit_length() - 1
        packs = self.packs[room]
        count = min(len(packs), -(-wanted // (room // length)))
        taken = packs[-count:]
        del packs[-count:]
        if not packs:
            self.left &= ~(1 << room)
        return room, taken


def _place(lengths: np.ndarray, room: _Room) -> list[int]:
    """Return the pack of every sample of a window; lengths are in falling order."""
    distinct, counts = np.unique(-lengths, return_counts=True)
    placed: list[int] = []
    for length, wanted in zip((-distinct).tolist(), counts.tolist(), strict=True):
        while wanted:
            free, packs = room.tightest(length, wanted)
            each = free // length
            whole, rest = divmod(wanted, each)
            if whole >= len(packs):
                whole, rest = len(packs), 0
            for pack in packs[:whole]:
                placed += [pack] * each
            room.add(free - each * length, packs[:whole])
            if rest:
                placed += [packs[whole]] * rest
                room.add(free - rest * length, [packs[whole]])
            wanted -= whole * each + rest
    return placed
