"""Micro-batches of an indexed data set, at any position of any epoch, on any rank.

A position is a number of items of the epoch's seeded permutation, counted over all ranks. The
micro-batch at position p is items ``[p, p + batch_size * world_size)``; rank r takes the r-th
slice. So runs of equal ``batch_size * world_size * accumulate`` make each update from the same
items.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.random import default_rng

from inlay.core.errors import ConfigError, InlayError
from inlay.core.types import Batch, IndexedDataset, Window

if TYPE_CHECKING:
    from inlay.data.sampler import LengthGroupedSampler

_MASK = (1 << 64) - 1


class WindowLoader:
    """Reads windows of micro-batches.

    Args:
        dataset: what the items come from.
        batch_size: items per micro-batch and rank.
        num_workers: processes that read ahead; 0 reads in this one. The data are the same.
        shuffle: permute the items of each epoch; False keeps their order.
        sampler: orders the items of each epoch in place of ``shuffle``.
        seed: of the permutations and of the items' own randomness.
        rank, world_size: this process among all.
        pin_memory: put batches in page-locked memory; workers only.
        persistent_workers: keep workers between epochs; None keeps them.
        prefetch_factor: micro-batches that each worker reads ahead.
        timeout: seconds without a batch from a worker after which the run fails; 0 waits forever.

    Raises:
        ConfigError: an empty data set, or sizes out of range.
    """

    def __init__(
        self,
        dataset: IndexedDataset,
        batch_size: int,
        num_workers: int = 0,
        shuffle: bool = True,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        pin_memory: bool = False,
        persistent_workers: bool | None = None,
        prefetch_factor: int = 2,
        timeout: float = 0,
        sampler: LengthGroupedSampler | None = None,
    ) -> None:
        check_sizes(batch_size, rank, world_size)
        if not len(dataset):
            raise ConfigError("the data set is empty: there is nothing to load")
        if num_workers < 0:
            raise ConfigError(f"num_workers must be 0 or more, got {num_workers}")
        self.dataset: Any = dataset
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.sampler = sampler
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.num_items = len(dataset)
        self.iters_per_epoch = -(-self.num_items // (batch_size * world_size))
        self._units = np.asarray(dataset.loss_units)
        self._order: tuple[int, np.ndarray] | None = None
        self._fetch = _Fetch(dataset, seed)
        self._workers: _Workers | None = None
        if num_workers:
            self._workers = _Workers(
                self._fetch,
                num_workers=num_workers,
                pin_memory=pin_memory,
                persistent_workers=True if persistent_workers is None else persistent_workers,
                prefetch_factor=prefetch_factor,
                timeout=timeout,
            )

    def windows(
        self, epoch: int, start: int, accumulate: int, hint: dict[str, Any] | None = None
    ) -> Iterator[Window]:
        """Yield the windows of ``epoch`` from item position ``start`` on.

        A window's batches must be read before the next window is asked for. The last window may
        be short; a rank that has no item left in it gets a stand-in.

        Args:
            accumulate: micro-batches per window.
            hint: unused; for streams.
        """
        order = self._permutation(epoch)
        step = self.batch_size * self.world_size
        batches = self._read(self._requests(epoch, order, start))
        for begin in range(start, self.num_items, step * accumulate):
            stop = min(begin + step * accumulate, self.num_items)
            count = -(-(stop - begin) // step)
            units = int(self._units[order[begin:stop]].sum())
            yield Window(count, begin, stop, units, _take(batches, count))

    def batches(self) -> Iterator[Batch]:
        """Yield this rank's batches of one pass in the data set's own order.

        All ranks get equally many; where items run out, stand-ins.
        """
        return self._read(self._requests(0, np.arange(self.num_items), 0))

    def _permutation(self, epoch: int) -> np.ndarray:
        if self._order is None or self._order[0] != epoch:
            self._order = (epoch, self._ordered(epoch))
        return self._order[1]

    def _ordered(self, epoch: int) -> np.ndarray:
        # Small integers: half the memory, and quicker to permute.
        dtype = np.min_scalar_type(-self.num_items)
        if self.sampler is not None:
            data = self.dataset
            order = self.sampler.order(
                data.item_lengths, data.has_image, self.seed, epoch, self.world_size
            )
            return order.astype(dtype)
        items = np.arange(self.num_items, dtype=dtype)
        return default_rng([self.seed, epoch]).permutation(items) if self.shuffle else items

    def _requests(self, epoch: int, order: np.ndarray, start: int) -> Iterator[_Request]:
        step = self.batch_size * self.world_size
        for begin in range(start, self.num_items, step):
            first = begin + self.rank * self.batch_size
            indices = order[first : min(first + self.batch_size, begin + step)].tolist()
            if indices:
                yield _Request(epoch, indices, False)
            else:
                yield _Request(epoch, order[begin : begin + 1].tolist(), True)

    def _read(self, requests: Iterator[_Request]) -> Iterator[Batch]:
        if self._workers is not None:
            return self._workers.read(requests)
        return map(self._fetch.__getitem__, requests)


def check_sizes(batch_size: int, rank: int, world_size: int) -> None:
    """Raise ``ConfigError`` for sizes that cannot be."""
    if batch_size < 1:
        raise ConfigError(f"batch_size must be 1 or more, got {batch_size}")
    if not 0 <= rank < world_size:
        raise ConfigError(f"rank must be in [0, {world_size}), got {rank}")


def item_seed(seed: int, epoch: int, index: int) -> int:
    """Return 64 well-mixed bits for one item of one epoch (SplitMix64, Steele et al. 2014)."""
    state = 0
    for value in (seed, epoch, index):
        state = (state + value + 0x9E3779B97F4A7C15) & _MASK
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & _MASK
        state ^= state >> 31
    return state


class _Request(NamedTuple):
    epoch: int
    indices: list[int]
    is_stand_in: bool


class _Fetch:
    """Makes the batch of a request: a map-style data set for torch's DataLoader."""

    def __init__(self, dataset: Any, seed: int) -> None:
        self.dataset = dataset
        self.seed = seed

    def __getitem__(self, request: _Request) -> Batch:
        epoch, indices, is_stand_in = request
        items = [self.dataset.item(i, item_seed(self.seed, epoch, i), epoch) for i in indices]
        return self.dataset.stand_in(items[0]) if is_stand_in else self.dataset.collate(items)


class _Returning:
    """Returns a mistake in the data: raised in a worker, torch would bury it in a traceback."""

    def __init__(self, fetch: _Fetch) -> None:
        self.fetch = fetch

    def __getitem__(self, request: _Request) -> Batch | InlayError:
        try:
            return self.fetch[request]
        except InlayError as error:
            return error


def _raised(found: Batch | InlayError) -> Batch:
    if isinstance(found, InlayError):
        raise found
    return found


class _Workers:
    """torch's DataLoader, asked for one list of requests after another."""

    def __init__(self, fetch: _Fetch, **options: Any) -> None:
        import torch
        from torch.utils.data import DataLoader

        self._asked = _Restartable()
        self._loader: Iterable[Batch | InlayError] = DataLoader(
            _Returning(fetch),  # type: ignore[arg-type]
            batch_size=None,
            sampler=self._asked,
            collate_fn=_as_it_is,
            worker_init_fn=_leave_process_group,
            # torch draws a seed for its workers; drawn from the global generator, starting to read
            # would change dropout, and a resumed run with it.
            generator=torch.Generator(),
            **options,
        )

    def read(self, requests: Iterator[_Request]) -> Iterator[Batch]:
        self._asked.requests = requests
        return map(_raised, iter(self._loader))


class _Restartable:
    """A sampler whose requests are set before each pass.

    It knows nothing of the loader: in a cycle of references the workers' queues would be closed
    before the workers are told to end, and torch would wait five seconds for each of them.
    """

    requests: Iterator[_Request] = iter(())

    def __iter__(self) -> Iterator[_Request]:
        return self.requests


def _leave_process_group(_worker: int) -> None:
    """A signal to the whole group (Ctrl-C, a batch system) is for the run: it still needs us."""
    os.setpgid(0, 0)


def _as_it_is(batch: Any) -> Any:
    return batch


def _take(batches: Iterator[Batch], count: int) -> Iterator[Batch]:
    for _ in range(count):
        yield next(batches)
