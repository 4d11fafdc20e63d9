"""Packing by tokens and tiles: how full the packs are against the bound, and how fast that is.

The bound is the larger of all tokens in the fewest packs that hold them, and all tiles likewise.
With ``--peer``, nanoVLM's own packer works on the same samples in its windows, which are measured
in tokens: 8 sequences of 4096 (its default) and 64. Its cap on pictures is given the tiles.

    python benchmarks/pack_images.py --peer PATH_TO_nanoVLM
"""

from __future__ import annotations

import argparse
import importlib.util
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from _ratio import best_in_turns, cpu_seconds, header, row

from inlay.data.pack import best_fit

SEED = 0
NUM_SAMPLES = 30_000
MAX_LENGTH = 4096
MAX_TILES = 18
TILES = (0, 1, 3, 5, 10, 17)
SHARES = (0.3, 0.25, 0.15, 0.15, 0.1, 0.05)


def lengths_and_tiles() -> tuple[np.ndarray, np.ndarray]:
    """Return int64 ``[NUM_SAMPLES]`` tokens and tiles: lognormal texts, 65 tokens to a tile."""
    random = np.random.default_rng(SEED)
    text = np.clip(random.lognormal(math.log(200), 1.0, NUM_SAMPLES).astype(np.int64), 8, 2500)
    tiles = random.choice(TILES, NUM_SAMPLES, p=SHARES)
    return text + 65 * tiles, tiles


def bound(lengths: np.ndarray, tiles: np.ndarray) -> int:
    """Return the fewest packs that any packing can have."""
    return max(math.ceil(lengths.sum() / MAX_LENGTH), math.ceil(tiles.sum() / MAX_TILES))


def our_packs(lengths: np.ndarray, tiles: np.ndarray, window: int) -> int:
    """Return how many packs ours are.

    Raises:
        ValueError: a pack overflows, or a sample is missing or repeated.
    """
    packs = best_fit(lengths, MAX_LENGTH, window, SEED, tiles, MAX_TILES)
    is_within = packs.sums(lengths).max() <= MAX_LENGTH and packs.sums(tiles).max() <= MAX_TILES
    if not is_within or not (np.sort(packs.order) == np.arange(len(lengths))).all():
        raise ValueError("the packs overflow, or do not hold every sample once")
    return len(packs)


def peer_packs(knapsack: Callable[..., Any], windows: list[list[dict[str, range]]]) -> int:
    """Return how many packs nanoVLM's packer makes of the windows."""
    packs = 0
    for window in windows:
        groups = knapsack(None, window, MAX_LENGTH, delta=5, max_images_per_knapsack=MAX_TILES)
        packs += len(groups)
    return packs


def peer_windows(
    lengths: np.ndarray, tiles: np.ndarray, sequences: int
) -> Iterator[list[dict[str, range]]]:
    """Yield samples until they fill ``sequences``, as nanoVLM's producer gathers them.

    Ranges stand for the token ids and pictures, of which the packer asks only how many there are.
    """
    window: list[dict[str, range]] = []
    held = 0
    for length, count in zip(lengths.tolist(), tiles.tolist(), strict=True):
        window.append({"input_ids": range(length), "images": range(count)})
        held += length
        if held >= sequences * MAX_LENGTH:
            yield window
            window, held = [], 0
    if window:
        yield window


def load_peer(root: Path) -> Callable[..., Any]:
    """Return the packing method of nanoVLM's ``ConstantLengthDataset``."""
    spec = importlib.util.spec_from_file_location("peer", root / "data" / "advanced_datasets.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    method: Callable[..., Any] = module.ConstantLengthDataset._balanced_greedy_knapsack
    return method


def compare(data: SimpleNamespace, knapsack: Callable[..., Any], sequences: int) -> None:
    """Print our rows beside nanoVLM's: as many samples in our windows as it holds on average."""
    windows = list(peer_windows(data.lengths, data.tiles, sequences))
    window = len(data.lengths) // len(windows)
    ours = data.bound / our_packs(data.lengths, data.tiles, window)
    peer = data.bound / peer_packs(knapsack, windows)
    row(f"utilisation, {sequences} sequences ({window} samples)", ours, peer, ">= 1")
    measures = [
        lambda: best_fit(data.lengths, MAX_LENGTH, window, SEED, data.tiles, MAX_TILES),
        lambda: peer_packs(knapsack, windows),
    ]
    seconds = best_in_turns([lambda m=m: cpu_seconds(m) for m in measures], repeats=3)
    speeds = [len(data.lengths) / s for s in seconds]
    row(f"samples per CPU-second, {sequences} sequences", *speeds, "reported")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peer", type=Path, help="a checkout of huggingface/nanoVLM")
    options = parser.parse_args()
    lengths, tiles = lengths_and_tiles()
    data = SimpleNamespace(lengths=lengths, tiles=tiles, bound=bound(lengths, tiles))
    print(
        f"{NUM_SAMPLES:,} samples, seed {SEED}: lognormal texts (median 200, sigma 1, 8 to 2500) "
        f"and 65 tokens a tile;\ntiles {TILES} with shares {SHARES}; packs of {MAX_LENGTH} tokens "
        f"and {MAX_TILES} tiles\nbound by tokens {math.ceil(lengths.sum() / MAX_LENGTH):,} packs, "
        f"by tiles {math.ceil(tiles.sum() / MAX_TILES):,}"
    )
    header()
    for window in (64, 10_000):
        share = data.bound / our_packs(lengths, tiles, window)
        row(f"utilisation at window {window:,}, peer: the bound", share, 1, ">= 0.99")
        plan = lambda w=window: best_fit(lengths, MAX_LENGTH, w, SEED, tiles, MAX_TILES)  # noqa: E731
        (seconds,) = best_in_turns([lambda p=plan: cpu_seconds(p)], repeats=3)
        row("samples per CPU-second, peer: 100,000", NUM_SAMPLES / seconds, 100_000, ">= 1")
    if options.peer:
        knapsack = load_peer(options.peer)
        for sequences in (8, 64):
            compare(data, knapsack, sequences)


if __name__ == "__main__":
    main()
