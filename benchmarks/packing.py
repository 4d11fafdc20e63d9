"""Packing by best fit: how full the packs are against the bound, and how fast they are planned.

The bound is the fullest that any packing can be: all tokens in the fewest packs that hold them.

    python benchmarks/packing.py
"""

from __future__ import annotations

import math

import numpy as np
from _ratio import best_in_turns, cpu_seconds, header, row

from inlay.data.pack import best_fit

NUM_SAMPLES = 100_000
MAX_LENGTH = 4096
WINDOW = 10_000


def lognormal_lengths() -> np.ndarray:
    """Return int64 ``[NUM_SAMPLES]`` tokens per sample: median 400, clipped to ``MAX_LENGTH``."""
    lengths = np.random.default_rng(0).lognormal(math.log(400), 0.8, NUM_SAMPLES)
    return np.clip(lengths, 8, MAX_LENGTH).astype(np.int64)


def utilisation(lengths: np.ndarray) -> tuple[float, float]:
    """Return the share of filled positions in our packs, and its bound.

    Raises:
        ValueError: a pack overflows, or a sample is missing or repeated.
    """
    packs = best_fit(lengths, MAX_LENGTH, window=WINDOW, seed=0)
    filled = np.add.reduceat(lengths[packs.order], packs.offsets[:-1])
    if filled.max() > MAX_LENGTH or not (np.sort(packs.order) == np.arange(len(lengths))).all():
        raise ValueError("the packs overflow, or do not hold every sample once")
    total = int(lengths.sum())
    return total / (len(filled) * MAX_LENGTH), total / (math.ceil(total / MAX_LENGTH) * MAX_LENGTH)


def main() -> None:
    lengths = lognormal_lengths()
    header()
    row("utilisation, peer: the bound", *utilisation(lengths), ">= 0.999")
    plan = lambda: best_fit(lengths, MAX_LENGTH, window=WINDOW, seed=0)  # noqa: E731
    (seconds,) = best_in_turns([lambda: cpu_seconds(plan)], repeats=5)
    row("samples per CPU-second, peer: 250,000", len(lengths) / seconds, 250_000, ">= 1")


if __name__ == "__main__":
    main()
