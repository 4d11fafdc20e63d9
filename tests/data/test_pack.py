from __future__ import annotations

import math

import numpy as np
import pytest

from inlay.data.pack import best_fit, one_each


def lognormal(count, mean=5.5, sigma=1.0, most=4096):
    values = np.random.default_rng(0).lognormal(mean, sigma, count)
    return np.clip(values.astype(int), 1, most)


@pytest.mark.parametrize("window", [1, 7, 1000, 10_000])
@pytest.mark.parametrize("most", [1, 5, 100])
def test_each_sample_once_and_never_too_long(window, most):
    lengths = np.random.default_rng(1).integers(1, most + 1, 3000)
    packs = best_fit(lengths, most, window)
    assert sorted(packs.order.tolist()) == list(range(3000))
    sums = packs.sums(lengths)
    assert sums.max() <= most
    assert sums.tolist() == [lengths[packs[i]].sum() for i in range(len(packs))]


def test_utilisation():
    lengths = lognormal(100_000)
    packs = best_fit(lengths, 4096)
    assert math.ceil(lengths.sum() / 4096) / len(packs) >= 0.999


def test_perfect_fits_are_found():
    lengths = np.array([7, 3, 6, 4, 5, 5, 10, 2, 8])
    assert len(best_fit(lengths, 10)) == 5


def test_seed_decides_alone():
    lengths = lognormal(5000)
    first, again, other = (best_fit(lengths, 4096, 500, seed) for seed in (0, 0, 1))
    assert np.array_equal(first.order, again.order)
    assert not np.array_equal(first.order, other.order)


def test_bad_lengths_and_none():
    with pytest.raises(ValueError, match=r"\[1, 4\]"):
        best_fit(np.array([5]), 4)
    assert len(best_fit(np.array([], int), 4)) == 0
    assert one_each(3).sums(np.array([4, 5, 6])).tolist() == [4, 5, 6]


def tiled(count, seed=0, most=4096):
    """Lognormal texts; seven in ten samples have a picture of 1 to 17 tiles of 64 tokens."""
    random = np.random.default_rng(seed)
    sizes = np.array([0, 1, 3, 5, 10, 17])
    tiles = random.choice(sizes, count, p=[0.3, 0.25, 0.15, 0.15, 0.1, 0.05])
    return np.clip(random.lognormal(5.3, 1.0, count).astype(int), 8, 2500) + 64 * tiles, tiles


@pytest.mark.parametrize("window", [1, 64, 10_000])
@pytest.mark.parametrize("max_tiles", [17, 24, 1000])
def test_tiles_are_a_second_bound(window, max_tiles):
    lengths, tiles = tiled(3000)
    packs = best_fit(lengths, 4096, window, 0, tiles, max_tiles)
    assert sorted(packs.order.tolist()) == list(range(3000))
    assert packs.sums(lengths).max() <= 4096
    assert packs.sums(tiles).max() <= max_tiles
    again = best_fit(lengths, 4096, window, 0, tiles, max_tiles)
    assert np.array_equal(packs.order, again.order)
    assert np.array_equal(packs.offsets, again.offsets)


@pytest.mark.parametrize("max_tiles", [18, 20, 30, 40, 64])
@pytest.mark.parametrize("window", [64, 10_000])
def test_utilisation_with_tiles(window, max_tiles):
    lengths, tiles = tiled(30_000)
    packs = best_fit(lengths, 4096, window, 0, tiles, max_tiles)
    bound = max(math.ceil(lengths.sum() / 4096), math.ceil(tiles.sum() / max_tiles))
    assert bound / len(packs) >= 0.99


def test_utilisation_where_tokens_and_tiles_are_equally_scarce():
    """Every pack would have to be full of both: the bound is out of reach, but not far."""
    lengths, tiles = tiled(30_000)
    packs = best_fit(lengths, 4096, 64, 0, tiles, 25)
    bounds = math.ceil(lengths.sum() / 4096), math.ceil(tiles.sum() / 25)
    assert min(bounds) / max(bounds) > 0.97
    assert max(bounds) / len(packs) >= 0.97


def test_without_tiles_nothing_changes():
    lengths = lognormal(3000)
    plain = best_fit(lengths, 4096, 500, 7)
    for tiles, most in ((None, 3), (np.zeros(3000, int), 3), (np.ones(3000, int), None)):
        packs = best_fit(lengths, 4096, 500, 7, tiles, most)
        assert np.array_equal(packs.order, plain.order)
        assert np.array_equal(packs.offsets, plain.offsets)


def test_perfect_fits_with_tiles_are_found():
    """Five packs of 10 tokens and 4 tiles: samples that fill both, two by two."""
    lengths = np.array([9, 1, 6, 4, 5, 5, 8, 2, 7, 3])
    tiles = np.array([1, 3, 3, 1, 4, 0, 2, 2, 3, 1])
    assert len(best_fit(lengths, 10, 10, 0, tiles, 4)) == 5


def test_bad_tiles():
    with pytest.raises(ValueError, match=r"tiles must be in \[0, 3\]"):
        best_fit(np.array([5, 5]), 10, tiles=np.array([1, 4]), max_tiles=3)
