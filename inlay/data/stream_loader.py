"""Micro-batches of a stream, at any position, on any rank."""

from __future__ import annotations

import itertools
import sys
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np

from inlay.core.errors import ConfigError
from inlay.core.types import Batch, Window
from inlay.data.loader import check_sizes, item_seed

if TYPE_CHECKING:
    from inlay.data.stream import StreamDataset, StreamItem

T = TypeVar("T")
U = TypeVar("U")


class StreamLoader:
    """Windows of micro-batches from a stream; one window is read ahead to know its loss units.

    Args:
        dataset: the stream.
        batch_size: items per micro-batch and rank.
        seed: of packing and shuffling inside the blocks, and of the items' own randomness.
        rank, world_size: this process among all.
        num_workers: threads that open pictures and make batches ahead, and if there are any, one
            more that reads the next block; 0 does all when it is asked for. The data are the same.
        prefetch_factor: micro-batches that are made ahead for each thread.

    Attributes:
        iters_per_epoch: None: it is not known before the stream has been read.
        num_items: as large as can be, for the same reason.

    Raises:
        ConfigError: sizes out of range.
    """

    iters_per_epoch = None
    num_items = sys.maxsize

    def __init__(
        self,
        dataset: StreamDataset,
        batch_size: int,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        num_workers: int = 0,
        prefetch_factor: int = 2,
    ) -> None:
        check_sizes(batch_size, rank, world_size)
        if num_workers < 0 or prefetch_factor < 1:
            raise ConfigError(
                "num_workers must be 0 or more and prefetch_factor 1 or more, got "
                f"{num_workers} and {prefetch_factor}"
            )
        self.dataset: Any = dataset
        self.batch_size = batch_size
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.num_workers = num_workers
        self.prefetch_factor = prefetch_factor

    def windows(
        self, epoch: int, start: int, accumulate: int, hint: dict[str, Any] | None = None
    ) -> Iterator[Window]:
        """Yield the windows of ``epoch`` from item position ``start`` on, the last one short.

        A window's batches must be read before the next window is asked for.

        Args:
            hint: of the window before: reopens the stream near ``start``. Without it (or with that
                of another epoch) the items before ``start`` are read and passed over.
        """
        is_ahead = self.num_workers > 0
        if hint and hint["epoch"] == epoch:
            place = hint["block"], hint["item"]
            items = self.dataset.items(self.seed, epoch, *place, is_ahead=is_ahead)
        else:
            items = self.dataset.items(self.seed, epoch, is_ahead=is_ahead)
            items = itertools.islice(items, start, None)
        if self.dataset.max_items is not None:
            items = itertools.islice(items, max(self.dataset.max_items - start, 0))
        step = self.batch_size * self.world_size
        with closing(self._read(self._requests(items, epoch, start, step * accumulate))) as found:
            for head, batch in found:
                count = -(-(head.stop - head.start) // step)
                rest = (made for _, made in itertools.islice(found, count - 1))
                batches = itertools.chain([batch], rest)
                yield Window(count, head.start, head.stop, head.units, batches, head.hint)

    def batches(self) -> Iterator[Batch]:
        """Yield this rank's batches of one pass over the stream."""
        for window in self.windows(0, 0, 1):
            yield from window.batches

    def _requests(
        self, items: Iterator[StreamItem], epoch: int, start: int, size: int
    ) -> Iterator[_Request]:
        """Yield this rank's micro-batches, window after window of ``size`` items of all ranks."""
        step = self.batch_size * self.world_size
        while taken := list(itertools.islice(items, size)):
            units = sum(int(np.count_nonzero(s.mask)) for item in taken for s in item.samples)
            hint = {"epoch": epoch, "block": taken[-1].block, "item": taken[-1].number + 1}
            head = _Head(start, start + len(taken), units, hint)
            start = head.stop
            for begin in range(0, len(taken), step):
                first = begin + self.rank * self.batch_size
                mine = taken[first : min(first + self.batch_size, begin + step)]
                yield _Request(head, mine or [taken[begin]], is_stand_in=not mine)

    def _read(self, requests: Iterator[_Request]) -> Generator[tuple[_Head, Batch]]:
        depth = self.num_workers * self.prefetch_factor
        return ahead(self._make, requests, self.num_workers, depth)

    def _make(self, request: _Request) -> tuple[_Head, Batch]:
        data, epoch = self.dataset, request.head.hint["epoch"]
        opened = [
            data.open(item, item_seed(item_seed(self.seed, epoch, item.block), 0, item.number))
            for item in request.items
        ]
        batch = data.stand_in(opened[0]) if request.is_stand_in else data.collate(opened)
        return request.head, batch


class _Head(NamedTuple):
    """What is known of a window before its batches are made; see ``Window``."""

    start: int
    stop: int
    units: int
    hint: dict[str, Any]


class _Request(NamedTuple):
    """A micro-batch to make, and the window it belongs to."""

    head: _Head
    items: list[StreamItem]
    is_stand_in: bool


def ahead(work: Callable[[T], U], values: Iterable[T], threads: int, depth: int) -> Generator[U]:
    """Yield ``work(value)`` in order, up to ``depth`` of them begun before they are asked for.

    ``values`` are drawn in the thread of the caller. With no threads nothing is done ahead.
    """
    if not threads:
        yield from map(work, values)
        return
    pool = ThreadPoolExecutor(threads, "inlay-data")
    try:
        begun: deque[Future[U]] = deque()
        for value in values:
            begun.append(pool.submit(work, value))
            if len(begun) > depth:
                yield begun.popleft().result()
        while begun:
            yield begun.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
