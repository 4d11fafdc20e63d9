"""A sample as people read it: tokens as text, and one box for all tokens of a picture."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np

from inlay.core.types import ImageProcessor, ImageRef, Sample
from inlay.data.vision.files import probe

_LONGEST_CHARACTER = 8  # tokens that may be needed for one


@dataclass(slots=True)
class Box:
    """The place of a picture in a sample.

    Attributes:
        start, stop: its tokens are ``ids[start:stop]``.
        width, height: of the picture, in px.
        tiles: pictures that the vision encoder sees for it.
    """

    start: int
    stop: int
    ref: ImageRef
    width: int
    height: int
    tiles: int

    def __str__(self) -> str:
        tokens = f"{self.stop - self.start} tokens"
        tiles = f"{self.tiles} tile{'s' * (self.tiles != 1)}"
        return f"[image {self.width}x{self.height}: {tokens}, {tiles}]"


@dataclass(slots=True)
class Piece:
    """Tokens that are text together: mostly one, several where they share a character.

    Attributes:
        special: one of the tokenizer's special tokens.
    """

    text: str
    ids: list[int]
    trained: bool
    special: bool


def boxes(sample: Sample, processor: ImageProcessor | None) -> list[Box]:
    """Find the tokens of a sample's pictures.

    Raises:
        DataError: a picture cannot be opened.
    """
    found: list[Box] = []
    start, count = 0, len(sample.images)
    for number, ref in enumerate(sample.images):
        assert processor is not None  # a data set with pictures has one
        width, height, _ = probe(ref, verify=False)
        plan = processor.plan(width, height, number, count)
        start = _find(sample.ids, np.array(plan.ids), start)
        found.append(Box(start, start + len(plan.ids), ref, width, height, plan.tiles))
        start += len(plan.ids)
    return found


def _find(ids: np.ndarray, wanted: np.ndarray, start: int) -> int:
    """Return where ``wanted`` stands in ``ids``, at ``start`` or after it."""
    for offset in np.flatnonzero(ids[start:] == wanted[0]).tolist():
        if np.array_equal(ids[start + offset : start + offset + len(wanted)], wanted):
            return start + offset
    raise AssertionError("a picture's tokens are in its sample")


def runs(sample: Sample, tokenizer: Any, found: list[Box]) -> Iterator[tuple[bool, str | Box]]:
    """Yield runs of trained and of untrained tokens as text, special tokens included, and boxes."""
    for part in _between(sample, found):
        if isinstance(part, Box):
            yield False, part
            continue
        tokens = zip(sample.mask[part].tolist(), sample.ids[part].tolist(), strict=True)
        for trained, run in groupby(tokens, key=lambda pair: pair[0]):
            yield trained, tokenizer.decode([i for _, i in run])


def pieces(sample: Sample, tokenizer: Any, found: list[Box]) -> Iterator[Piece | Box]:
    """Yield tokens as pieces of text, and boxes."""
    special = {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder}
    for part in _between(sample, found):
        if isinstance(part, Box):
            yield part
            continue
        ids, mask = sample.ids[part].tolist(), sample.mask[part].tolist()
        before, start = 0, 0
        while start < len(ids):
            stop, text = _character(ids, mask, before, start, tokenizer)
            yield Piece(text, ids[start:stop], mask[start], ids[start] in special)
            before, start = start, stop


def _between(sample: Sample, found: list[Box]) -> Iterator[slice | Box]:
    start = 0
    for box in found:
        if start < box.start:
            yield slice(start, box.start)
        yield box
        start = box.stop
    if start < len(sample.ids):
        yield slice(start, len(sample.ids))


def _character(
    ids: list[int], mask: list[bool], before: int, start: int, tokenizer: Any
) -> tuple[int, str]:
    """Return the end of the shortest run of tokens that is whole characters, and its text.

    Args:
        before: start of the run before it: some tokenizers decode the start of a text differently.
    """
    skip = len(_decode(tokenizer, ids[before:start]))
    for stop in range(start + 1, min(start + _LONGEST_CHARACTER, len(ids)) + 1):
        text = _decode(tokenizer, ids[before:stop])[skip:]
        is_whole = not text.endswith("\ufffd")
        if is_whole or stop == len(ids) or mask[stop] != mask[start]:
            return stop, text
    return start + 1, _decode(tokenizer, ids[start : start + 1])


def _decode(tokenizer: Any, ids: list[int]) -> str:
    return tokenizer.decode(ids, clean_up_tokenization_spaces=False)
