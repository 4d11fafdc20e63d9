"""Packing by index: which samples share a sequence of at most ``max_length`` tokens.

With pictures there is a second bound: the tiles that the vision encoder sees for a sequence.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

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


def best_fit(
    lengths: np.ndarray,
    max_length: int,
    window: int = 10_000,
    seed: int = 0,
    tiles: np.ndarray | None = None,
    max_tiles: int | None = None,
) -> Packs:
    """Pack samples by best fit decreasing, window by window of a seeded permutation.

    A sample goes to the fullest pack that still has room for it; packs with room left stay open
    for the windows that follow. Equal lengths are placed together, so that the work grows with the
    distinct lengths of a window, not with its samples.

    With tiles, a pack has room for tokens and room for tiles, and a sample goes where little of
    both is left, and, unless tiles abound, no larger share of the tiles than of the tokens: texts
    fill tokens alone, nothing fills tiles alone. The work then grows with the samples, times the
    distinct numbers of tiles that packs have left. Of two plans, with this window and with one of
    64 samples, the better is returned: sorting many samples helps where tokens are scarce, mixing
    them where tiles are.

    Args:
        lengths: int ``[N]`` tokens per sample, in [1, max_length].
        max_length: tokens of a pack.
        window: samples per window.
        seed: of the permutation; the result depends on nothing else.
        tiles: int ``[N]`` tiles per sample, in [0, max_tiles]; None: there are no pictures.
        max_tiles: tiles of a pack; None: any number.

    Returns:
        Packs over all samples, each once; samples of a pack in the permutation's order.

    Raises:
        ValueError: a length outside [1, max_length], or tiles outside [0, max_tiles].
    """
    lengths = np.asarray(lengths)
    if len(lengths) and not 1 <= lengths.min() <= lengths.max() <= max_length:
        raise ValueError(f"lengths must be in [1, {max_length}]")
    shuffled = np.random.default_rng([seed, 0x7061636B]).permutation(len(lengths))
    if tiles is None or max_tiles is None or not np.any(tiles):
        return _plan(shuffled, _TokenRoom(lengths, max_length), window)
    rooms = (_TileRoom(lengths, np.asarray(tiles), max_length, max_tiles) for _ in range(2))
    plans = [
        _plan(shuffled, room, size) for room, size in zip(rooms, (window, _MIXED), strict=True)
    ]
    return min(plans, key=len)


_UNEVEN = 5  # how bad tiles left without tokens are, in units of room left
_MIXED = 64  # samples of a window that keeps large and small ones mixed


def _plan(shuffled: np.ndarray, room: _Room, window: int) -> Packs:
    pack_of = np.empty(len(shuffled), np.int64)  # by position in the permutation
    for start in range(0, len(shuffled), window):
        part = slice(start, start + window)
        pack_of[part] = room.place(shuffled[part])
    by_pack = np.argsort(pack_of, kind="stable")
    counts = np.bincount(pack_of, minlength=room.num_packs)
    return Packs(shuffled[by_pack], np.concatenate([[0], np.cumsum(counts)]))


class _Room(Protocol):
    """Open packs by what they have left."""

    num_packs: int

    def place(self, samples: np.ndarray) -> np.ndarray:
        """Return int64 ``[W]``: the packs of a window's samples."""
        ...


class _TokenRoom:
    """Open packs by the tokens that they have left."""

    def __init__(self, lengths: np.ndarray, max_length: int) -> None:
        self.lengths = lengths
        self.max_length = max_length
        self.num_packs = 0
        self.packs: list[list[int]] = [[] for _ in range(max_length + 1)]
        self.left = 0  # bit r is set where packs with r tokens left exist

    def place(self, samples: np.ndarray) -> np.ndarray:
        lengths = self.lengths[samples]
        by_length = np.argsort(-lengths, kind="stable")
        placed = np.empty(len(samples), np.int64)
        placed[by_length] = _place(lengths[by_length], self)
        return placed

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


def _place(lengths: np.ndarray, room: _TokenRoom) -> list[int]:
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


class _TileRoom:
    """Open packs by the tokens and the tiles that they have left."""

    def __init__(
        self, lengths: np.ndarray, tiles: np.ndarray, max_length: int, max_tiles: int
    ) -> None:
        if not 0 <= tiles.min() <= tiles.max() <= max_tiles:
            raise ValueError(f"tiles must be in [0, {max_tiles}]")
        self.lengths = lengths
        self.tiles = tiles
        self.max_length = max_length
        self.max_tiles = max_tiles
        self.num_packs = 0
        self.packs: dict[tuple[int, int], list[int]] = {}  # by (tokens, tiles) left
        self.left: dict[int, int] = {}  # by tiles left: bit r is set where packs with r tokens are
        need = float(tiles.sum()) / max_tiles, float(lengths.sum()) / max_length  # packs
        self.are_scarce = need[0] > 0.8 * need[1]
        self.worth = 1 if self.are_scarce else need[0] / need[1]

    def place(self, samples: np.ndarray) -> np.ndarray:
        lengths, tiles = self.lengths[samples], self.tiles[samples]
        size = np.maximum(lengths / self.max_length, tiles / self.max_tiles)
        order = np.lexsort((-lengths, -size))
        placed = np.empty(len(samples), np.int64)
        pairs = zip(lengths[order].tolist(), tiles[order].tolist(), strict=True)
        placed[order] = [self._place_one(length, count) for length, count in pairs]
        return placed

    def _place_one(self, length: int, tiles: int) -> int:
        best = None
        for count, rooms in self.left.items():
            fitting = rooms >> length
            if count < tiles or not fitting:
                continue
            tiles_left = (count - tiles) / self.max_tiles
            wanted = math.ceil(tiles_left * self.max_length) if self.are_scarce else 0
            if enough := fitting >> wanted:
                rest = wanted + (enough & -enough).bit_length() - 1
            else:
                rest = fitting.bit_length() - 1
            left = rest / self.max_length
            badness = left + self.worth * tiles_left
            if self.are_scarce:
                badness += _UNEVEN * max(tiles_left - left, 0)
            if best is None or badness < best[0]:
                best = badness, length + rest, count
        if best is None:
            room, count, pack = self.max_length, self.max_tiles, self.num_packs
            self.num_packs += 1
        else:
            _, room, count = best
            pack = self._take(room, count)
        if room > length:
            self._add(room - length, count - tiles, pack)
        return pack

    def _take(self, room: int, count: int) -> int:
        packs = self.packs[room, count]
        pack = packs.pop()
        if not packs:
            del self.packs[room, count]
            self.left[count] &= ~(1 << room)
            if not self.left[count]:
                del self.left[count]
        return pack

    def _add(self, room: int, count: int, pack: int) -> None:
        self.packs.setdefault((room, count), []).append(pack)
        self.left[count] = self.left.get(count, 0) | 1 << room
