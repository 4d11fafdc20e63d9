"""Conversations and documents for fine-tuning: read, tokenised once, packed, served by index."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from inlay.core.errors import ConfigError, DataError, did_you_mean
from inlay.core.io import fingerprint
from inlay.core.types import Batch, Sample
from inlay.data.cache import open_store, writable_dir
from inlay.data.chat import ChatEncoder
from inlay.data.collate import collate, stand_in
from inlay.data.encode_rows import OVERLONG, Report
from inlay.data.mix import mix
from inlay.data.pack import best_fit, one_each
from inlay.data.sources import parse_sources
from inlay.data.split import held_out

PARTS = ("train", "val", "all")


class ChatDataset:
    """A data set of samples, or of packs of samples, for ``WindowLoader``.

    Args:
        sources: a path, a dict of ``Source``'s fields, or a list of these.
        tokenizer: a tokenizer of transformers.
        template: a name in ``PROMPT_TEMPLATE``, a template dict, or None for the tokenizer's own
            chat template.
        max_length: most tokens of a sample and of a pack.
        pack_to_max_length: an item is a pack of samples; False: one sample.
        overlong: longer samples are cut (``"truncate"``), left out (``"drop"``) or refused
            (``"error"``); both are counted in ``report``.
        val_fraction: share of the conversations that is held out, in [0, 1), chosen by content.
        part: ``"train"``, ``"val"`` (the held-out ones, neither mixed nor repeated), ``"all"``.
        max_bad_rows: how many rows (int) or what share of them (float) may be unusable.
        cache_dir: where tokenised data are kept; None: ``$INLAY_CACHE`` or ``~/.cache/inlay``.
        num_proc: processes that tokenise.
        seed: of packing and mixing.
        pack_window: samples that are packed together.

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
    ) -> None:
        check_arguments(max_length, overlong)
        _check_part(part, val_fraction)
        self._sources = parse_sources(sources)
        encoder = ChatEncoder(tokenizer, template)
        folder = writable_dir(cache_dir)
        self._stores = [
            open_store(s, encoder, max_length, overlong, max_bad_rows, folder, num_proc)
            for s in self._sources
        ]
        self.report = _joined_report([store.report for store in self._stores], max_bad_rows)
        self._firsts = np.cumsum([0, *map(len, self._stores)])
        self._samples = self._choose(val_fraction, part, seed)
        lengths = np.concatenate([store.lengths for store in self._stores])
        units = np.concatenate([store.units for store in self._stores])
        self.lengths = lengths[self._samples]
        if pack_to_max_length:
            self._items = best_fit(self.lengths, max_length, pack_window, seed)
        else:
            self._items = one_each(len(self._samples))
        self._units = self._items.sums(units[self._samples])
        packing = [pack_to_max_length, max_length, overlong, pack_window, seed]
        self._identity = {
            "data": self._content(val_fraction, part),
            **encoder.identity(),
            "packing": fingerprint(packing if pack_to_max_length else packing[:3]),
        }

    def __len__(self) -> int:
        return len(self._items)

    @property
    def num_samples_total(self) -> int:
        """Samples of one epoch."""
        return len(self._samples)

    def sample(self, index: int) -> Sample:
        """Return sample ``index`` of the epoch, in the order of the sources."""
        number = int(self._samples[index])
        store = int(np.searchsorted(self._firsts, number, side="right")) - 1
        return self._stores[store].sample(number - int(self._firsts[store]))

    def item(self, index: int, seed: int) -> list[Sample]:
        """Return the samples of one item. Nothing is random here: ``seed`` is not used."""
        return [self.sample(i) for i in self._items[index].tolist()]

    def collate(self, items: list[list[Sample]]) -> Batch:
        """Join items into one flat row."""
        return collate([sample for item in items for sample in item])

    def stand_in(self, item: list[Sample]) -> Batch:
        """Return an item without anything to train."""
        return stand_in(item)

    @property
    def loss_units(self) -> np.ndarray:
        """int64 ``[len(self)]`` trained tokens of every item."""
        return self._units

    @property
    def num_samples(self) -> np.ndarray:
        """int64 ``[len(self)]`` samples of every item."""
        return np.diff(self._items.offsets)

    def identity(self) -> dict[str, str]:
        """Fingerprints of ``data``, ``template``, ``tokenizer`` and ``packing``."""
        return dict(self._identity)

    def _choose(self, val_fraction: float, part: str, seed: int) -> np.ndarray:
        chosen = []
        for store, first in zip(self._stores, self._firsts.tolist(), strict=False):
            if part == "all" or not val_fraction:
                inside = np.arange(len(store))
            else:
                inside = np.flatnonzero(held_out(store.hashes, val_fraction) == (part == "val"))
            chosen.append(first + inside)
        samples = np.concatenate(chosen) if part == "val" else mix(chosen, self._sources, seed)
        if not len(samples):
            raise DataError(
                f"the {part} side of the split is empty: val_fraction={val_fraction} of "
                f"{self.report.kept} samples. Choose another fraction, or add data."
            )
        return samples

    def _content(self, val_fraction: float, part: str) -> str:
        # The conversations themselves: template and length have fingerprints of their own.
        parts = [
            [hashlib.sha256(s.hashes.tobytes()).hexdigest(), x.weight, x.repeat]
            for s, x in zip(self._stores, self._sources, strict=True)
        ]
        return fingerprint([parts, val_fraction, part])


def check_arguments(max_length: int, overlong: str) -> None:
    """Raise ``ConfigError`` for a length or a length policy that cannot be."""
    if max_length < 2:
        raise ConfigError(f"max_length must be 2 or more, got {max_length}")
    if overlong not in OVERLONG:
        hint = did_you_mean(str(overlong), OVERLONG)
        raise ConfigError(f"overlong must be one of {', '.join(OVERLONG)}, got {overlong!r}.{hint}")


def _check_part(part: str, val_fraction: float) -> None:
    if part not in PARTS:
        hint = did_you_mean(str(part), PARTS)
        raise ConfigError(f"part must be one of {', '.join(PARTS)}, got {part!r}.{hint}")
    if not 0 <= val_fraction < 1:
        raise ConfigError(f"val_fraction must be in [0, 1), got {val_fraction}")
    if part == "val" and not val_fraction:
        raise DataError("the val side of the split is empty: val_fraction is 0")


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
