"""Conversations and documents for fine-tuning: read, tokenised once, packed, served by index."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from inlay.core.errors import DataError
from inlay.core.io import fingerprint
from inlay.core.types import Batch, ImageProcessor, Sample
from inlay.data.cache import open_store, writable_dir
from inlay.data.chat import ChatEncoder
from inlay.data.collate import collate, stand_in
from inlay.data.encode_rows import Policy
from inlay.data.loader import item_seed
from inlay.data.mix import mix
from inlay.data.pack import Packs, best_fit, one_each
from inlay.data.parts import Split, check_max_items, sample_length
from inlay.data.pictures import OpenSample, PictureOpener, check_unchanged
from inlay.data.report import Report
from inlay.data.sources import parse_sources
from inlay.data.split import split_groups


class ChatDataset:
    """A data set of samples, or of packs of samples, for ``WindowLoader``.

    Pictures are measured when the data are indexed, and decoded when an item is asked for.

    Args:
        sources: a path, a dict of ``Source``'s fields, or a list of these.
        tokenizer: a tokenizer of transformers.
        template: a name in ``PROMPT_TEMPLATE``, a template dict, or None for the tokenizer's own
            chat template.
        max_length: most tokens of a sample and of a pack.
        pack_to_max_length: an item is a pack of samples; False: one sample.
        overlong: longer samples are cut (``"truncate"``), left out (``"drop"``) or refused
            (``"error"``); both are counted in ``report``. Pictures are never cut: where they do
            not fit, the sample is left out.
        val_fraction: share of the conversations that is held out, in [0, 1), chosen by content;
            all that is said about one picture is on one side.
        part: ``"train"``, ``"val"`` (the held-out ones, neither mixed nor repeated), ``"all"``.
        max_bad_rows: how many rows (int) or what share of them (float) may be unusable.
        cache_dir: where tokenised data are kept; None: ``$INLAY_CACHE`` or ``~/.cache/inlay``.
        num_proc: processes that tokenise and read pictures.
        seed: of packing and mixing.
        pack_window: samples that are packed together.
        image_processor: of a model with eyes; None: rows with pictures are unusable.
        image_folder: where paths of pictures start, and what they must not leave; None: the folder
            of the file that names them. A source may have its own.
        max_images: most pictures of a sample; samples with more are left out and counted.
        max_tiles: most pictures of a pack as the vision encoder sees them; samples with more are
            left out and counted.
        min_ratings: least rating of a turn by name (``relevance``, ``image_correspondence``,
            ``visual_dependency``, ``formatting``); turns below are left out.
        val_size: number of samples to hold out, in place of ``val_fraction``.
        verify_images: decode every picture when the data are indexed, so that a broken one is a
            bad row; False: only its header, and a broken one stops the run.
        max_sample_length: most tokens of a sample; None: ``max_length``.
        max_items: only the first so many items; None: all.
        pictures_in_length: whether lengths count the tokens of pictures; False: ``max_length`` is
            that of the text, the tokens of one picture come on top (XTuner's ``LLaVADataset``).

    Attributes:
        report: what became of the rows of all sources, both parts together.
        lengths: int32 ``[num_samples_total]`` tokens of each sample of the epoch.

    Raises:
        ConfigError: an argument out of range, or an unusable template.
        DataError: a source is missing, malformed or empty, too many rows are bad, or one side of
            the split is empty.
    """

    def __init__(
        self,
        sources: Any,
        tokenizer: Any,
        template: str | Mapping[str, Any] | None = None,
        max_length: int = 2048,
        pack_to_max_length: bool = True,
        overlong: str = "truncate",
        val_fraction: float = 0.0,
        part: str = "train",
        max_bad_rows: float = 0,
        cache_dir: str | os.PathLike[str] | None = None,
        num_proc: int = 1,
        seed: int = 0,
        pack_window: int = 10_000,
        image_processor: ImageProcessor | None = None,
        image_folder: str | None = None,
        max_images: int | None = None,
        max_tiles: int | None = None,
        min_ratings: Mapping[str, int] | None = None,
        val_size: int | None = None,
        verify_images: bool = True,
        max_sample_length: int | None = None,
        max_items: int | None = None,
        pictures_in_length: bool = True,
    ) -> None:
        if image_processor is not None and not pictures_in_length:
            max_length += len(image_processor.plan(1, 1).ids) - 1  # its mark is counted already
        longest = sample_length(max_length, max_sample_length)
        policy = Policy(longest, overlong, max_images, max_tiles, min_ratings, verify_images)
        self._split = Split(part, val_fraction, val_size)
        check_max_items(max_items)
        self._sources = parse_sources(sources)
        encoder = ChatEncoder(tokenizer, template, image_processor)
        self.image_processor = image_processor
        self._opener = None if image_processor is None else PictureOpener(image_processor)
        folder = writable_dir(cache_dir)
        self._stores = [
            open_store(s, encoder, policy, max_bad_rows, folder, num_proc, image_folder)
            for s in self._sources
        ]
        self.report = _joined_report([store.report for store in self._stores], max_bad_rows)
        self._firsts = np.cumsum([0, *map(len, self._stores)])
        self._samples = self._choose(seed)
        self.lengths = self._of_samples("lengths")
        if pack_to_max_length:
            tiles = self._of_samples("tiles") if max_tiles is not None else None
            items = best_fit(self.lengths, max_length, pack_window, seed, tiles, max_tiles)
        else:
            items = one_each(len(self._samples))
        self._items = items if max_items is None else _first(items, max_items)
        self._units = self._items.sums(self._of_samples("units"))
        packing = [pack_to_max_length, max_length, policy.identity(), max_items]
        packing += [pack_window, seed] if pack_to_max_length else []
        self._identity = {
            "data": self._content(),
            **encoder.identity(),
            "packing": fingerprint(packing),
        }

    def __len__(self) -> int:
        return len(self._items)

    @property
    def num_samples_total(self) -> int:
        """Samples of one epoch."""
        return len(self._samples)

    @property
    def source_sizes(self) -> list[int]:
        """Samples of one epoch from each source."""
        stores = np.searchsorted(self._firsts, self._samples, side="right") - 1
        return np.bincount(stores, minlength=len(self._stores)).tolist()

    def sample(self, index: int) -> Sample:
        """Return sample ``index`` of the epoch, in the order of the sources; no picture is read."""
        store, number = self._locate(index)
        return self._stores[store].sample(number)

    def item(self, index: int, seed: int, epoch: int = 0) -> list[Sample]:
        """Return the samples of one item, the same in every epoch, with their pictures opened.

        Raises:
            DataError: a picture is gone, or another one than was indexed.
        """
        numbers = self._items[index].tolist()
        return [self._opened(i, item_seed(seed, 0, place)) for place, i in enumerate(numbers)]

    def collate(self, items: list[list[Sample]]) -> Batch:
        """Join items into one flat row."""
        return collate([sample for item in items for sample in item], self._opener)

    def stand_in(self, item: list[Sample]) -> Batch:
        """Return an item without anything to train."""
        return stand_in(item, self._opener)

    @property
    def loss_units(self) -> np.ndarray:
        """int64 ``[len(self)]`` trained tokens of every item."""
        return self._units

    @property
    def num_samples(self) -> np.ndarray:
        """int64 ``[len(self)]`` samples of every item."""
        return np.diff(self._items.offsets)

    @property
    def item_lengths(self) -> np.ndarray:
        """int64 ``[len(self)]`` tokens of every item."""
        return self._items.sums(self.lengths)

    @property
    def has_image(self) -> np.ndarray:
        """bool ``[len(self)]``, whether an item has a picture."""
        return self.num_images > 0

    @property
    def num_images(self) -> np.ndarray:
        """int64 ``[len(self)]`` pictures of every item."""
        return self._items.sums(self._of_samples("num_pictures"))

    @property
    def tiles(self) -> np.ndarray:
        """int64 ``[len(self)]`` pictures of every item as the vision encoder sees them."""
        return self._items.sums(self._of_samples("tiles"))

    def identity(self) -> dict[str, str]:
        """Fingerprints of ``data``, ``template``, ``tokenizer``, ``packing`` and, if there is one,
        ``image_processor``."""
        return dict(self._identity)

    def _locate(self, index: int) -> tuple[int, int]:
        number = int(self._samples[index])
        store = int(np.searchsorted(self._firsts, number, side="right")) - 1
        return store, number - int(self._firsts[store])

    def _opened(self, index: int, seed: int) -> Sample | OpenSample:
        store, number = self._locate(index)
        sample = self._stores[store].sample(number)
        if not sample.images or self._opener is None:
            return sample
        for picture in self._stores[store].pictures(number):
            check_unchanged(picture, self._stores[store].folder)
        return self._opener.open(sample, seed)

    def _of_samples(self, name: str) -> np.ndarray:
        """Values of the epoch's samples from all stores."""
        return np.concatenate([getattr(store, name) for store in self._stores])[self._samples]

    def _choose(self, seed: int) -> np.ndarray:
        split = self._split
        if split.is_whole:
            inside = np.ones(self._firsts[-1], np.bool_)
        else:
            hashes = np.concatenate([store.hashes for store in self._stores])
            counts = np.concatenate([store.num_pictures for store in self._stores])
            keys = np.concatenate([store.keys for store in self._stores])
            held = split_groups(hashes, (keys, np.cumsum(counts)), split.fraction, split.size)
            inside = held == (split.part == "val")
        bounds = zip(self._firsts[:-1].tolist(), self._firsts[1:].tolist(), strict=True)
        chosen = [a + np.flatnonzero(inside[a:b]) for a, b in bounds]
        is_val = split.part == "val"
        samples = np.concatenate(chosen) if is_val else mix(chosen, self._sources, seed)
        if not len(samples):
            raise DataError(
                f"the {split.part} side of the split is empty: {split} of {self.report.kept} "
                "samples. Choose another split, or add data."
            )
        return samples

    def _content(self) -> str:
        # The conversations themselves: template and length have fingerprints of their own.
        parts: list[Any] = [
            [_sha256(s.hashes, s.keys), x.weight, x.repeat]
            for s, x in zip(self._stores, self._sources, strict=True)
        ]
        return fingerprint([parts, str(self._split), self._split.part])


def _first(items: Packs, count: int) -> Packs:
    offsets = items.offsets[: count + 1]
    return Packs(items.order[: offsets[-1]], offsets)


def _sha256(*arrays: np.ndarray) -> str:
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(array.data)
    return digest.hexdigest()


def _joined_report(reports: list[Report], max_bad_rows: float) -> Report:
    joined = Report()
    for report in reports:
        joined.add(report)
    joined.check(max_bad_rows)
    if not joined.kept:
        lost = ", ".join(f"{count} dropped {reason}" for reason, count in joined.dropped.items())
        raise DataError(
            f"the data set is empty: {joined.rows} rows read, {joined.bad} of them unusable"
            f"{f', {lost}' if lost else ''}; nothing is left to train on"
        )
    return joined
