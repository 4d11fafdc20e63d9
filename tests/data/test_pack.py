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
