"""How long it takes to find the place in the data on resume, at a million samples.

Builds the loader, draws the epoch's order, and reads the first window after the position.

    python benchmarks/resume.py
"""

from __future__ import annotations

import numpy as np
from _ratio import best_in_turns, cpu_seconds, header, row

from inlay.core.types import Batch
from inlay.data.loader import WindowLoader
from inlay.data.pack import best_fit

NUM_SAMPLES = 1_000_000
MAX_LENGTH = 4096
EPOCH = 2
ACCUMULATE = 16


class Units:
    """A data set that knows its sizes; its items are empty.

    Args:
        loss_units: int64 ``[N]`` trained tokens of every item.
    """

    def __init__(self, loss_units: np.ndarray) -> None:
        self.loss_units = loss_units

    def __len__(self) -> int:
        return len(self.loss_units)

    def item(self, index: int, seed: int, epoch: int = 0) -> int:
        return index

    def collate(self, items: list[int]) -> Batch:
        return Batch({"ids": items}, 1, 1, 1)


def main() -> None:
    lengths = np.random.default_rng(0).lognormal(6, 0.8, NUM_SAMPLES)
    lengths = np.clip(lengths, 8, MAX_LENGTH).astype(np.int64)

    def position(units: np.ndarray) -> None:
        start = int(len(units) * 0.777)
        window = next(WindowLoader(Units(units), batch_size=1).windows(EPOCH, start, ACCUMULATE))
        if window.start != start or len(list(window.batches)) != ACCUMULATE:
            raise RuntimeError(f"read {window}, expected {ACCUMULATE} batches from {start}")

    packs = best_fit(lengths, MAX_LENGTH)
    units = {"samples": lengths, "packs of them": packs.sums(lengths)}
    header()
    for name, values in units.items():
        (seconds,) = best_in_turns([lambda v=values: cpu_seconds(lambda: position(v))], repeats=7)
        row(f"ms for {len(values):,} {name}, peer: 50 ms", seconds * 1e3, 50, "<= 1")
    sums = cpu_seconds(lambda: packs.sums(lengths))
    row("ms for the units of the packs, peer: 50 ms", sums * 1e3, 50, "")


if __name__ == "__main__":
    main()
