from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from inlay.core.errors import ConfigError
from inlay.core.types import Batch
from inlay.data.loader import WindowLoader, item_seed


class Numbers:
    """Item i is (i, a draw from its seed); it has i % 3 + 1 loss units."""

    def __init__(self, count):
        self.count = count
        self.loss_units = np.arange(count) % 3 + 1
        self.num_samples = np.ones(count, np.int64)

    def __len__(self):
        return self.count

    def item(self, index, seed, epoch=0):
        return index, int(np.random.default_rng(seed).integers(2**62))

    def collate(self, items):
        units = sum(int(self.loss_units[i]) for i, _ in items)
        return Batch({"x": torch.tensor(items)}, units, len(items), len(items))

    def stand_in(self, item):
        return Batch({"x": torch.tensor([item])}, 0, 0, 0)


def drawn(loader, epoch=0, start=0, accumulate=1):
    """Windows as (start, stop, units, [items of each batch])."""
    return [
        (w.start, w.stop, w.loss_units, [b.inputs["x"].tolist() for b in w.batches])
        for w in loader.windows(epoch, start, accumulate)
    ]


def indices(windows):
    return [item[0] for *_, batches in windows for batch in batches for item in batch]


def test_coverage_and_order():
    loader = WindowLoader(Numbers(23), 4, seed=1)
    epochs = [indices(drawn(loader, epoch, 0, 2)) for epoch in range(3)]
    assert all(sorted(e) == list(range(23)) for e in epochs)
    assert len({tuple(e) for e in epochs}) == 3
    assert epochs[1] == indices(drawn(WindowLoader(Numbers(23), 4, seed=1), 1))
    assert epochs[1] != indices(drawn(WindowLoader(Numbers(23), 4, seed=2), 1))
    assert loader.iters_per_epoch == 6
    plain = WindowLoader(Numbers(23), 4, shuffle=False)
    assert indices(drawn(plain)) == list(range(23))


def test_last_window_is_short_and_units_add_up():
    windows = drawn(WindowLoader(Numbers(23), 2), 0, 0, 4)
    assert [(w[0], w[1], len(w[3])) for w in windows] == [(0, 8, 4), (8, 16, 4), (16, 23, 4)]
    for _, _, units, batches in windows:
        assert units == sum(i % 3 + 1 for batch in batches for i, _ in batch)


@pytest.mark.parametrize(("batch", "world", "accumulate"), [(1, 1, 8), (2, 2, 2), (4, 2, 1)])
def test_equal_products_make_equal_updates(batch, world, accumulate):
    reference = drawn(WindowLoader(Numbers(21), 8))
    ranks = [WindowLoader(Numbers(21), batch, rank=r, world_size=world) for r in range(world)]
    windows = [list(loader.windows(0, 0, accumulate)) for loader in ranks]
    assert len(windows[0]) == len(reference)
    for (start, stop, units, _), *parts in zip(reference, *windows, strict=True):
        assert {(w.start, w.stop, w.loss_units, w.num_batches) for w in parts} == {
            (start, stop, units, parts[0].num_batches)
        }


@pytest.mark.parametrize(("batch", "world", "accumulate"), [(1, 1, 8), (2, 2, 2), (1, 3, 3)])
def test_ranks_cover_each_window_once(batch, world, accumulate):
    ranks = [WindowLoader(Numbers(22), batch, rank=r, world_size=world) for r in range(world)]
    for windows in zip(*(loader.windows(0, 0, accumulate) for loader in ranks), strict=True):
        lists = [list(w.batches) for w in windows]
        assert {len(batches) for batches in lists} == {windows[0].num_batches}
        real = [b for batches in lists for b in batches if b.num_samples]
        found = sorted(i for b in real for i, _ in b.inputs["x"].tolist())
        expected = sorted(ranks[0]._permutation(0)[windows[0].start : windows[0].stop].tolist())
        assert found == expected
        assert sum(b.loss_units for b in real) == windows[0].loss_units


def test_a_rank_without_items_gets_a_stand_in():
    loader = WindowLoader(Numbers(5), 2, rank=1, world_size=2)
    batches = list(loader.batches())
    assert [b.num_samples for b in batches] == [2, 0]
    assert batches[1].loss_units == 0
    assert batches[0].inputs["x"][:, 0].tolist() == [2, 3]


@pytest.mark.parametrize("workers", [0, 2])
def test_every_position_resumes(workers):
    loader = WindowLoader(Numbers(17), 2, num_workers=workers)
    whole = drawn(loader, 1, 0, 3)
    for number, window in enumerate(whole):
        assert drawn(loader, 1, window[0], 3) == whole[number:]


def test_workers_change_nothing():
    single = WindowLoader(Numbers(17), 2)
    many = WindowLoader(Numbers(17), 2, num_workers=2)
    for epoch in (0, 1):
        assert drawn(single, epoch, 0, 3) == drawn(many, epoch, 0, 3)
    # A pass that is given up leaves nothing behind.
    window = next(many.windows(2, 0, 2))
    next(window.batches)
    assert drawn(single, 2, 4, 2) == drawn(many, 2, 4, 2)


def test_another_batch_size_goes_on_at_the_same_item():
    first = drawn(WindowLoader(Numbers(20), 2), 0, 0, 2)[0]
    rest = drawn(WindowLoader(Numbers(20), 5), 0, first[1], 1)
    assert sorted(indices([first]) + indices(rest)) == list(range(20))


def test_seeds():
    values = {item_seed(s, e, i) for s, e, i in itertools.product(range(10), repeat=3)}
    assert len(values) == 1000
    assert all(0 <= value < 2**64 for value in values)
    assert item_seed(0, 1, 2) == item_seed(0, 1, 2)


def test_bad_arguments():
    with pytest.raises(ConfigError, match="empty"):
        WindowLoader(Numbers(0), 1)
    with pytest.raises(ConfigError, match="batch_size"):
        WindowLoader(Numbers(1), 0)
    with pytest.raises(ConfigError, match="rank"):
        WindowLoader(Numbers(1), 1, rank=1)


def test_workers_end_with_their_loader():
    """At once: torch waits five seconds for each one that was not told to."""
    import gc
    import time

    loader = WindowLoader(Numbers(17), 2, num_workers=2)
    assert len(drawn(loader)) == 9
    start = time.monotonic()
    del loader
    gc.collect()
    assert time.monotonic() - start < 4
