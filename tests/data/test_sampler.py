from __future__ import annotations

import numpy as np
import pytest

from inlay.core.errors import ConfigError
from inlay.data.sampler import LengthGroupedSampler


def data(count, seed=0):
    random = np.random.default_rng(seed)
    return random.integers(1, 1000, count), random.random(count) < 0.6


@pytest.mark.parametrize("count", [0, 1, 7, 64, 1000, 12_345])
@pytest.mark.parametrize("name", ["length", "modality_length"])
@pytest.mark.parametrize("world_size", [1, 3])
def test_every_sample_once_and_the_longest_first(count, name, world_size):
    lengths, has_image = data(count)
    sampler = LengthGroupedSampler(name, per_device_batch_size=4)
    order = sampler.order(lengths, has_image, 0, 0, world_size)
    assert sorted(order.tolist()) == list(range(count))
    assert order.dtype == np.int64
    if count:
        assert lengths[order[0]] == lengths.max()


@pytest.mark.parametrize(("count", "batches"), [(100_000, 50), (8000, 25), (40, 1)])
def test_mega_batches_fall_in_length(count, batches):
    """min(N // (4 * batch), 50) batches, at least one, are sorted together."""
    lengths, has_image = data(count)
    order = LengthGroupedSampler(per_device_batch_size=40).order(lengths, has_image, 0, 0, 2)
    size = min(batches * 80, count)
    starts = np.flatnonzero(np.diff(lengths[order]) > 0) + 1
    # The first sample changed places with the longest: it may stand out of its order.
    regular = [s for s in starts.tolist() if s % size == 0]
    assert len(regular) == -(-count // size) - 1
    assert len(starts) - len(regular) <= 2


def test_batches_are_of_similar_length_and_of_one_kind():
    lengths, has_image = data(10_000)
    sampler = LengthGroupedSampler("modality_length", per_device_batch_size=5)
    order = sampler.order(lengths, has_image, 3, 0, 2)
    batches = order.reshape(-1, 10)
    shares = has_image[batches].mean(axis=1)
    mixed = ((shares > 0) & (shares < 1)).sum()
    assert mixed <= 2  # where the rests meet, and the longest sample's change of place
    spread = np.ptp(lengths[batches], axis=1)
    assert np.median(spread) < 40
    anyhow = np.ptp(lengths[np.random.default_rng(0).permutation(10_000).reshape(-1, 10)], axis=1)
    assert np.median(anyhow) > 700


def test_modalities_share_mega_batches_unless_told():
    lengths, has_image = data(4000)
    order = LengthGroupedSampler(per_device_batch_size=10).order(lengths, has_image, 0, 0, 1)
    shares = has_image[order.reshape(-1, 10)].mean(axis=1)
    assert 0.5 < shares.mean() < 0.7
    assert ((shares > 0) & (shares < 1)).mean() > 0.9


def test_one_kind_only():
    lengths, _ = data(100)
    sampler = LengthGroupedSampler("modality_length", 4)
    for has_image in (np.zeros(100, bool), np.ones(100, bool)):
        assert sorted(sampler.order(lengths, has_image, 0, 0, 1).tolist()) == list(range(100))


def test_seed_and_epoch_decide():
    lengths, has_image = data(1000)
    sampler = LengthGroupedSampler(per_device_batch_size=4, mega_batch_mult=2)
    first, again, epoch, seed = (
        sampler.order(lengths, has_image, s, e, 1) for s, e in ((0, 0), (0, 0), (0, 1), (1, 0))
    )
    assert np.array_equal(first, again)
    assert not np.array_equal(first, epoch)
    assert not np.array_equal(first, seed)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"length_property": "modality"}, "Did you mean 'modality_length'"),
        ({"per_device_batch_size": 0}, "per_device_batch_size must be 1"),
        ({"mega_batch_mult": 0}, "mega_batch_mult must be 1"),
    ],
)
def test_mistakes(options, message):
    with pytest.raises(ConfigError, match=message):
        LengthGroupedSampler(**options)
