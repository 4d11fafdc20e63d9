"""Data sets that are too large, or too far away, to be tokenised beforehand.

Rows are read in order, in blocks. A block is shuffled by a seed of its own, tokenised and packed;
so a position is (block, item in it), and a resumed run passes over the rows before its block and
goes on with the same bits. Every rank reads the same blocks and takes its slices.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from contextlib import closing
from typing import Any, NamedTuple

import numpy as np

from inlay.core.errors import ConfigError, DataError
from inlay.core.io import fingerprint
from inlay.core.types import Batch, ImageProcessor, Sample
from inlay.data.cache import row_encoder
from inlay.data.chat import ChatEncoder
from inlay.data.collate import collate, stand_in
from inlay.data.encode_rows import Policy, RowEncoder
from inlay.data.json_rows import Row
from inlay.data.loader import item_seed
from inlay.data.pack import best_fit, one_each
from inlay.data.parts import Split, check_max_items, sample_length
from inlay.data.pictures import PictureOpener
from inlay.data.report import Report
from inlay.data.sources import Reader, open_source, parse_sources
from inlay.data.stream_loader import StreamLoader, ahead
from inlay.data.stream_split import StreamSplit

__all__ = ["StreamDataset", "StreamItem", "StreamLoader"]


class StreamItem(NamedTuple):
    """An item and its place: the block, and the item's number in the block."""

    block: int
    number: int
    samples: list[Sample]


class StreamDataset:
    """Reads sources block by block, for ``StreamLoader``.

    Sources follow one another, or, with weights, are interleaved row by row by their shares until
    each has run out. Arguments as ``ChatDataset``'s; further, or different:

    Args:
        block_size: rows that are shuffled and packed together, and held in memory; None: 10,000,
            or 1,000 with an image processor.
        val_size: the first conversations of the stream are held out. Training passes over every
            row that shows one of their pictures or says the same. Both parts must be made with the
            same arguments.
        val_fraction: conversations are held out by the hash of their pictures, or their text. Each
            part reads the whole stream. A row whose pictures are on both sides is left out.
        max_items: most items of one pass; None: all.

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
        block_size: int | None = None,
        val_fraction: float = 0.0,
        part: str = "train",
        image_processor: ImageProcessor | None = None,
        image_folder: str | None = None,
        max_images: int | None = None,
        max_tiles: int | None = None,
        min_ratings: Mapping[str, int] | None = None,
        val_size: int | None = None,
        verify_images: bool = True,
        max_sample_length: int | None = None,
        max_items: int | None = None,
    ) -> None:
        longest = sample_length(max_length, max_sample_length)
        policy = Policy(longest, overlong, max_images, max_tiles, min_ratings, verify_images)
        split = Split(part, val_fraction, val_size)
        check_max_items(max_items)
        if block_size is None:
            block_size = 10_000 if image_processor is None else 1_000
        if block_size < 1:
            raise ConfigError(f"block_size must be 1 or more, got {block_size}")
        self.max_length, self.max_tiles, self.max_items = max_length, max_tiles, max_items
        self.pack_to_max_length = pack_to_max_length
        self.max_bad_rows = max_bad_rows
        self.block_size = block_size
        self.report = Report()
        self._opener = None if image_processor is None else PictureOpener(image_processor)
        self._sources = parse_sources(sources)
        if any(source.repeat != 1 for source in self._sources):
            raise ConfigError("a stream cannot repeat a source: use weight")
        encoder = ChatEncoder(tokenizer, template, image_processor)
        self._readers: list[Reader] = []
        self._encoders: list[RowEncoder] = []
        forms = []
        for source in self._sources:
            reader = open_source(source, streaming=True)
            encode, form = row_encoder(source, reader, encoder, policy, image_folder)
            self._readers.append(reader)
            self._encoders.append(encode)
            forms.append([str(source.path), source.split, form, source.system, source.weight])
        self._split = StreamSplit(split, self._encoders)
        packing = [pack_to_max_length, max_length, policy.identity(), block_size, max_items]
        self._identity = {
            "data": fingerprint([forms, str(split), split.part]),
            **encoder.identity(),
            "packing": fingerprint(packing),
        }

    def items(
        self, seed: int, epoch: int, block: int = 0, number: int = 0, is_ahead: bool = False
    ) -> Iterator[StreamItem]:
        """Yield the items of one pass over the sources, from item ``number`` of ``block`` on.

        Pictures are not opened yet. ``max_items`` plays no part here.

        Args:
            seed: of packing and shuffling, together with ``epoch``.
            is_ahead: read the next block in a thread, while this one is used.

        Raises:
            DataError: a source fails, or more rows are bad than ``max_bad_rows``.
        """
        rows, self.report = self._split.rows(self._rows, block == 0)
        rows = itertools.islice(rows, block * self.block_size, None)

        def read(current: int) -> tuple[list[list[Sample]], Report] | None:
            taken = list(itertools.islice(rows, self.block_size))
            return self._block(taken, [seed, epoch, current]) if taken else None

        with closing(ahead(read, itertools.count(block), int(is_ahead), depth=1)) as blocks:
            for current, found in enumerate(blocks, block):
                if found is None:
                    break
                items, report = found
                self.report.add(report)
                self.report.check(self.max_bad_rows, is_complete=False)
                for index in range(number if current == block else 0, len(items)):
                    yield StreamItem(current, index, items[index])
        self.report.check(self.max_bad_rows)
        if not self.report.kept and not block:
            raise DataError(f"the stream is empty: no usable row\n{self.report}")

    def open(self, item: StreamItem, seed: int) -> list[Sample]:
        """Return the samples of an item with their pictures opened.

        Args:
            seed: as ``IndexedDataset.item``'s.

        Raises:
            DataError: a picture cannot be read any more.
        """
        if self._opener is None:
            return item.samples
        return [
            self._opener.open(sample, item_seed(seed, 0, place)) if sample.images else sample
            for place, sample in enumerate(item.samples)
        ]

    def collate(self, items: list[list[Sample]]) -> Batch:
        """Join items, opened, into one flat row."""
        return collate([sample for item in items for sample in item], self._opener)

    def stand_in(self, item: list[Sample]) -> Batch:
        """Return an item, opened, without anything to train."""
        return stand_in(item, self._opener)

    def identity(self) -> dict[str, str]:
        """Fingerprints; ``data`` names the sources, whose bytes cannot be known beforehand."""
        return dict(self._identity)

    def _block(
        self, rows: list[tuple[int, Row]], seed: list[int]
    ) -> tuple[list[list[Sample]], Report]:
        samples: list[Sample] = []
        report = Report()
        for index, encode in enumerate(self._encoders):
            encoded = encode([row for source, row in rows if source == index])
            report.add(encoded.report)
            samples += encoded.samples
        random = np.random.default_rng(seed)
        if self.pack_to_max_length and samples:
            lengths = np.array([len(s.ids) for s in samples])
            tiles = np.array([s.tiles for s in samples]) if self.max_tiles is not None else None
            seed_of_packs = int(random.integers(2**31))
            packs = best_fit(
                lengths, self.max_length, len(samples), seed_of_packs, tiles, self.max_tiles
            )
        else:
            packs = one_each(len(samples))
        order = random.permutation(len(packs)).tolist()
        return [[samples[i] for i in packs[p].tolist()] for p in order], report

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
