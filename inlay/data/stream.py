"""Data sets that are too large, or too far away, to be tokenised beforehand.

Rows are read in order, in blocks. A block is shuffled by a seed of its own, tokenised and packed;
so a position is (block, item in it), and a resumed run passes over the rows before its block and
goes on with the same bits. Every rank reads the same blocks and takes its slices.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from inlay.core.errors import ConfigError, DataError
from inlay.core.io import fingerprint
from inlay.core.types import Batch, Sample, Window
from inlay.data.cache import row_encoder
from inlay.data.chat import ChatEncoder
from inlay.data.collate import collate, stand_in
from inlay.data.encode_rows import Report, RowEncoder
from inlay.data.json_rows import Row
from inlay.data.loader import check_sizes
from inlay.data.pack import best_fit, one_each
from inlay.data.sft import check_arguments
from inlay.data.sources import Reader, open_source, parse_sources


class StreamItem(NamedTuple):
    """An item and its place: the block, and the item's number in the block."""

    block: int
    number: int
    samples: list[Sample]


class StreamDataset:
    """Reads sources block by block, for ``StreamLoader``.

    Sources follow one another, or, with weights, are interleaved row by row by their shares until
    each has run out. Arguments as ``ChatDataset``'s; further:

    Args:
        block_size: rows that are shuffled and packed together.

    Attributes:
        report: what became of the rows read so far.

    Raises:
        ConfigError: an argument out of range, ``repeat``, or an unusable template.
        DataError: a source is missing, malformed or empty.
    """

    def __init__(
        self,
        sources: Any,
        tokenizer: Any,
        template: str | Mapping[str, Any] | None = None,
        max_length: int = 2048,
        pack_to_max_length: bool = True,
        overlong: str = "truncate",
        max_bad_rows: float = 0,
        block_size: int = 10_000,
    ) -> None:
        check_arguments(max_length, overlong)
        if block_size < 1:
            raise ConfigError(f"block_size must be 1 or more, got {block_size}")
        self._sources = parse_sources(sources)
        if any(source.repeat != 1 for source in self._sources):
            raise ConfigError("a stream cannot repeat a source: use weight")
        encoder = ChatEncoder(tokenizer, template)
        self._readers: list[Reader] = []
        self._encoders: list[RowEncoder] = []
        forms = []
        for source in self._sources:
            reader = open_source(source, streaming=True)
            encode, form = row_encoder(source, reader, encoder, max_length, overlong)
            self._readers.append(reader)
            self._encoders.append(encode)
            forms.append([str(source.path), source.split, form, source.system, source.weight])
        self.max_length = max_length
        self.pack_to_max_length = pack_to_max_length
        self.max_bad_rows = max_bad_rows
        self.block_size = block_size
        self.report = Report()
        self._identity = {
            "data": fingerprint(forms),
            **encoder.identity(),
            "packing": fingerprint([pack_to_max_length, max_length, overlong, block_size]),
        }

    def items(self, seed: int, epoch: int, block: int = 0, number: int = 0) -> Iterator[StreamItem]:
        """Yield the items of one pass over the sources, from item ``number`` of ``block`` on.

        Args:
            seed: of packing and shuffling, together with ``epoch``.

        Raises:
            DataError: a source fails, or more rows are bad than ``max_bad_rows``.
        """
        self.report = Report()
        rows = itertools.islice(self._rows(), block * self.block_size, None)
        for current in itertools.count(block):
            taken = list(itertools.islice(rows, self.block_size))
            if not taken:
                break
            items = self._block(taken, [seed, epoch, current])
            for index in range(number if current == block else 0, len(items)):
                yield StreamItem(current, index, items[index])
        self.report.check(self.max_bad_rows)
        if not self.report.kept and not block:
            raise DataError(f"the stream is empty: {self.report.rows} rows read, none is usable")

    def collate(self, items: list[list[Sample]]) -> Batch:
        """Join items into one flat row."""
        return collate([sample for item in items for sample in item])

    def stand_in(self, item: list[Sample]) -> Batch:
        """Return an item without anything to train."""
        return stand_in(item)

    def identity(self) -> dict[str, str]:
        """Fingerprints; ``data`` names the sources, whose bytes cannot be known beforehand."""
        return dict(self._identity)

    def _block(self, rows: list[tuple[int, Row]], seed: list[int]) -> list[list[Sample]]:
        samples: list[Sample] = []
        for index, encode in enumerate(self._encoders):
            encoded = encode([row for source, row in rows if source == index])
            self.report.add(encoded.report)
            samples += encoded.samples
        self.report.check(self.max_bad_rows, is_complete=False)
        random = np.random.default_rng(seed)
        if self.pack_to_max_length and samples:
            lengths = np.array([len(s.ids) for s in samples])
            packs = best_fit(lengths, self.max_length, len(samples), int(random.integers(2**31)))
        else:
            packs = one_each(len(samples))
        order = random.permutation(len(packs)).tolist()
        return [[samples[i] for i in packs[p].tolist()] for p in order]

    def _rows(self) -> Iterator[tuple[int, Row]]:
        """Yield (source, row). With weights the source furthest behind its share comes next."""
        readers = {index: reader.rows() for index, reader in enumerate(self._readers)}
        weights = [source.weight for source in self._sources]
        taken = [0.0] * len(weights)  # rows, in units of the source's weight
        while readers:
            index = min(readers, key=taken.__getitem__)
            row = next(readers[index], None)
            if row is None:
                del readers[index]
            else:
                taken[index] += 1 / weight if (weight := weights[index]) else 0
                yield index, row


class StreamLoader:
    """Windows of micro-batches from a stream; one window is read ahead to know its loss units.

    Args:
        dataset: the stream.
        batch_size: items per micro-batch and rank.
        seed: of packing and shuffling inside the blocks.
        rank, world_size: this process among all.

    Attributes:
        iters_per_epoch: None: it is not known before the stream has been read.
        num_items: as large as can be, for the same reason.
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
    ) -> None:
        check_sizes(batch_size, rank, world_size)
        self.dataset: Any = dataset
        self.batch_size = batch_size
        self.seed = seed
        self.rank = rank
        self.world_size = world_size

    def windows(
        self, epoch: int, start: int, accumulate: int, hint: dict[str, Any] | None = None
    ) -> Iterator[Window]:
        """Yield the windows of ``epoch`` from item position ``start`` on, the last one short.

        Args:
            hint: of the window before: reopens the stream near ``start``. Without it (or with that
                of another epoch) the items before ``start`` are read and passed over.
        """
        if hint and hint["epoch"] == epoch:
            items = self.dataset.items(self.seed, epoch, hint["block"], hint["item"])
        else:
            items = itertools.islice(self.dataset.items(self.seed, epoch), start, None)
        step = self.batch_size * self.world_size
        while taken := list(itertools.islice(items, step * accumulate)):
            units = sum(int(np.count_nonzero(s.mask)) for item in taken for s in item.samples)
            stop = start + len(taken)
            place = {"epoch": epoch, "block": taken[-1].block, "item": taken[-1].number + 1}
            yield Window(-(-len(taken) // step), start, stop, units, self._cut(taken), place)
            start = stop

    def batches(self) -> Iterator[Batch]:
        """Yield this rank's batches of one pass over the stream."""
        items = self.dataset.items(self.seed, 0)
        while taken := list(itertools.islice(items, self.batch_size * self.world_size)):
            yield from self._cut(taken)

    def _cut(self, items: list[StreamItem]) -> Iterator[Batch]:
        step = self.batch_size * self.world_size
        for begin in range(0, len(items), step):
            first = begin + self.rank * self.batch_size
            mine = items[first : min(first + self.batch_size, begin + step)]
            if mine:
                yield self.dataset.collate([item.samples for item in mine])
            else:
                yield self.dataset.stand_in(items[begin].samples)
