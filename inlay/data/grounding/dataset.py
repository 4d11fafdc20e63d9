"""Grounding data for training and validation: sources mixed, items made when they are asked for."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import cached_property
from typing import Any, Protocol

import numpy as np

from inlay.core.errors import ConfigError, DataError, InlayError
from inlay.core.io import fingerprint
from inlay.core.types import Batch, ImageProcessor, Sample
from inlay.data.grounding import collate as row
from inlay.data.grounding.collate import GroundedSample
from inlay.data.grounding.files import refiner_picture
from inlay.data.grounding.kinds import as_sources
from inlay.data.grounding.sequence import PROMPT, CaptionTokens, SequenceBuilder
from inlay.data.grounding.source import GroundingReport, GroundingSource, Words, checked_size
from inlay.data.json_rows import Row
from inlay.data.mix import mix
from inlay.data.pictures import PictureOpener


class KnownFeatures(Protocol):
    """What the data set asks of a cache of features."""

    def has_image(self, key: str) -> bool:
        """Whether the refiner's embedding of this picture is there."""
        ...

    def has_text(self, key: str) -> bool:
        """Whether maps and hidden states of this picture and text are there."""
        ...


class GroundingDataset:
    """A data set for ``WindowLoader`` whose item is one picture with a caption and its masks.

    Args:
        sources: a ``RefCOCO``, ``PNG`` or ``PhraseSet``, a dict of its arguments with its ``type``
            (the class or its name), or a list of these.
        tokenizer, image_processor, template, prompt: see ``SequenceBuilder``; one picture.
        max_length: most tokens of an item; longer ones are bad rows. None: any number.
        picture_size: longest side in px of the picture for the refiner; None: there is none.
        cache: of features: what it has is neither decoded nor prepared.
        max_masks: most masks of an item. Of more, so many in a row are taken, others in the next
            epoch, until all had their turn; the words of those that wait stay in the caption.
        max_bad_rows: how many rows (int) or what share of them (float) may be unusable.
        seed: of mixing.

    Attributes:
        report: what became of the rows of all sources.
        builder: writes the sequences.

    Raises:
        ConfigError: an argument out of range, an unusable template or prompt.
        DataError: a source is missing, malformed or empty, or too many rows are bad.
    """

    def __init__(
        self,
        sources: Any,
        tokenizer: Any,
        image_processor: ImageProcessor,
        *,
        template: str | Mapping[str, Any] | None = None,
        prompt: str = PROMPT,
        max_length: int | None = None,
        picture_size: int | None = None,
        cache: KnownFeatures | None = None,
        max_masks: int | None = None,
        max_bad_rows: float = 0,
        seed: int = 0,
    ) -> None:
        for name, value in (("picture_size", picture_size), ("max_masks", max_masks)):
            if value is not None and value < 1:
                raise ConfigError(f"{name} must be 1 or more, or None, got {value}")
        self.sources = as_sources(sources)
        self.image_processor = image_processor
        self.picture_size, self.max_masks, self.cache = picture_size, max_masks, cache
        self.builder = SequenceBuilder(
            tokenizer, image_processor, template=template, prompt=prompt, max_length=max_length
        )
        if self.builder.num_pictures != 1:
            raise ConfigError(f"the prompt must have one picture, has {self.builder.num_pictures}")
        self._opener = PictureOpener(image_processor)
        self.report = GroundingReport()
        usable = [self._usable(source) for source in self.sources]
        self.report.check(max_bad_rows)
        self._firsts = np.cumsum([0, *map(len, self.sources)])
        available = [a + numbers for a, numbers in zip(self._firsts[:-1], usable, strict=True)]
        self._items = mix(available, [source.share for source in self.sources], seed)
        if not len(self._items):
            raise DataError(f"the data set is empty: no picture with a mask is left. {self.report}")
        self._seed = seed

    def __len__(self) -> int:
        return len(self._items)

    def item(self, index: int, seed: int, epoch: int = 0) -> GroundedSample:
        """Return an item of an epoch; what the cache has is left out.

        Raises:
            DataError: the picture or its masks cannot be read, or are not of one size.
        """
        source, number = self._locate(index)
        entry = source.entries[number]
        chosen = self._turn(source, number, epoch)
        tokens = self._tokens(source, number, epoch)
        picture_key, ref = source.files.key(entry.image, entry.place)
        text_key = _text_key(picture_key, tokens)
        has_text = self.cache is not None and self.cache.has_text(text_key)
        has_image = self.cache is not None and self.cache.has_image(picture_key)
        pixels, picture = None, None
        if self.picture_size is not None:
            picture = np.zeros((3, 0, 0), np.uint8)
        if not has_text or (picture is not None and not has_image):
            image = checked_size(source.files.open(entry.image, entry.place, ref), entry)
            pixels = None if has_text else self.image_processor.pixels(image, seed)
            if self.picture_size is not None and not has_image:
                picture = refiner_picture(image, self.picture_size)
        return GroundedSample(
            tokens,
            entry.size,
            self.image_processor.views(*entry.size),
            source.masks(number)[chosen],
            pixels,
            self.builder.plans(entry.size)[0].tiles,
            picture,
            picture_key,
            text_key,
        )

    def sample(self, index: int) -> Sample:
        """Return the words of an item in epoch 0, as other data sets have them; its mask is True
        where a token names a mask. No picture is decoded."""
        source, number = self._locate(index)
        entry = source.entries[number]
        tokens = self._tokens(source, number, 0)
        named = np.zeros(len(tokens.ids), np.bool_)
        named[tokens.caption_rows] = tokens.mask_ids >= 0
        tiles = self.builder.plans(entry.size)[0].tiles
        return Sample(tokens.ids, named, [source.files.ref(entry.image, entry.place)], tiles)

    def collate(self, items: list[GroundedSample]) -> Batch:
        """Join items into one micro-batch."""
        return row.collate(items, self._opener)

    def stand_in(self, item: GroundedSample) -> Batch:
        """Return an item without anything to train."""
        return row.stand_in(item, self._opener)

    @property
    def num_samples_total(self) -> int:
        """Samples of one epoch."""
        return len(self)

    @cached_property
    def loss_units(self) -> np.ndarray:
        """int64 ``[len(self)]`` masks of every item, the same in every epoch."""
        return self._of_items(self._num_masks)

    @property
    def num_samples(self) -> np.ndarray:
        """int64 ``[len(self)]``: one each."""
        return np.ones(len(self), np.int64)

    @property
    def num_images(self) -> np.ndarray:
        """int64 ``[len(self)]``: one each."""
        return np.ones(len(self), np.int64)

    @property
    def has_image(self) -> np.ndarray:
        """bool ``[len(self)]``: every item has a picture."""
        return np.ones(len(self), np.bool_)

    @cached_property
    def lengths(self) -> np.ndarray:
        """int32 ``[len(self)]`` tokens of every item in epoch 0; found when they are asked for."""
        return np.array([len(self.sample_tokens(i).ids) for i in range(len(self))], np.int32)

    @property
    def item_lengths(self) -> np.ndarray:
        """The same as ``lengths``: an item is one sample."""
        return self.lengths

    @cached_property
    def tiles(self) -> np.ndarray:
        """int64 ``[len(self)]`` pictures of every item as the vision encoder sees them."""
        places = [self._locate(i) for i in range(len(self))]
        sizes = [source.entries[number].size for source, number in places]
        return np.array([self.builder.plans(size)[0].tiles for size in sizes], np.int64)

    @cached_property
    def periods(self) -> np.ndarray:
        """int64 ``[len(self)]``: after so many epochs an item's sequence and masks come again."""
        return self._of_items(self._periods)

    def sample_tokens(self, index: int, epoch: int = 0) -> CaptionTokens:
        """Return the sequence of an item in an epoch."""
        return self._tokens(*self._locate(index), epoch)

    def identity(self) -> dict[str, str]:
        """Fingerprints of ``data``, ``packing``, ``template``, ``tokenizer`` and
        ``image_processor``; of the pictures only the names enter."""
        shares = [[s.content(), s.share.weight, s.share.repeat] for s in self.sources]
        return {
            "data": fingerprint([shares, self._seed]),
            "packing": fingerprint([self.builder.max_length, self.max_masks]),
            **self.builder.identity(),
        }

    def _locate(self, index: int) -> tuple[GroundingSource, int]:
        number = int(self._items[index])
        source = int(np.searchsorted(self._firsts, number, side="right")) - 1
        return self.sources[source], number - int(self._firsts[source])

    def _of_items(self, values: Any) -> np.ndarray:
        return np.concatenate([values(source) for source in self.sources])[self._items]

    def _num_masks(self, source: GroundingSource) -> np.ndarray:
        most = self.max_masks
        return source.num_masks if most is None else np.minimum(source.num_masks, most)

    def _periods(self, source: GroundingSource) -> np.ndarray:
        most = self.max_masks
        return source.periods * (1 if most is None else -(-source.num_masks // most))

    def _turn(self, source: GroundingSource, number: int, epoch: int) -> np.ndarray:
        """The masks of an entry that an epoch takes, in order."""
        count, most = int(source.num_masks[number]), self.max_masks
        if most is None or count <= most:
            return np.arange(count)
        turn = epoch // int(source.periods[number]) % -(-count // most)
        return np.sort((turn * most + np.arange(most)) % count)

    def _tokens(self, source: GroundingSource, number: int, epoch: int) -> CaptionTokens:
        entry = source.entries[number]
        renumbered = np.full(int(source.num_masks[number]) + 1, -1)  # the last one is that of -1
        chosen = self._turn(source, number, epoch)
        renumbered[chosen] = np.arange(len(chosen))
        pieces = [(text, int(renumbered[m])) for text, m in source.pieces(number, epoch)]
        try:
            return self.builder.build(entry.size, pieces, is_text=source.is_text)
        except DataError as error:
            raise DataError(f"{entry.place}: {error}") from None

    def _usable(self, source: GroundingSource) -> np.ndarray:
        """The entries of a source whose sequences can be written in every epoch."""
        kept = []
        report = GroundingReport()
        for number, entry in enumerate(source.entries):
            with report.losing(Row(entry.file, entry.line, None)):
                self._check(source, number)
                kept.append(number)
        most = self.max_masks
        report.crowded = 0 if most is None else int(np.sum(source.num_masks[kept] > most))
        report.entries = len(kept) - len(source)
        report.masks = int(source.num_masks[kept].sum() - source.num_masks.sum())
        report.kept = -report.bad
        self.report.add(source.report)
        self.report.add(report)
        return np.array(kept, np.int64)

    def _check(self, source: GroundingSource, number: int) -> None:
        """Make sure that an entry's sequences fit ``max_length``.

        A text has no more tokens than bytes, but for one that a tokenizer may put before it: few
        have to be tokenised to know.
        """
        most, entry = self.builder.max_length, source.entries[number]
        if most is None:
            self._prompt_length(entry)
            return
        room = most - self._prompt_length(entry)
        for epoch in range(int(source.periods[number])):
            pieces: list[Words] = source.pieces(number, epoch)
            if sum(len(text.encode("utf-8", "replace")) + 1 for text, _ in pieces) > room:
                self.builder.build(entry.size, pieces, is_text=source.is_text)

    def _prompt_length(self, entry: Any) -> int:
        try:
            return len(self.builder.prompt_ids(entry.size))
        except InlayError:
            raise
        except Exception as error:  # a user's or a library's image processor may raise anything
            shape = f"'{entry.image}' ({entry.size[0]} x {entry.size[1]} px)"
            raise DataError(f"{shape} is refused by the image processor: {error}") from None


def _text_key(picture_key: str, tokens: CaptionTokens) -> str:
    digest = hashlib.sha256(picture_key.encode())
    digest.update(tokens.ids.tobytes())
    digest.update(tokens.mask_ids.tobytes())
    return digest.hexdigest()[:16]
