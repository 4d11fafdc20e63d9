"""Regions of a picture: made from what a model points at, and found again under a click."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from inlay.chat.grounded import GroundedSession, Pointed
from inlay.chat.overlay import palette
from inlay.chat.web.parts import Box, Place, Refused, Region
from inlay.core.rle import encode_mask

if TYPE_CHECKING:
    from PIL.Image import Image

    from inlay.chat.grounder import Grounder

LEAST_OVERLAP = 0.3
"""Intersection over union that a mask must have with a box to be what was meant."""


def regions_of(pointed: Pointed, first: int, source: str) -> list[Region]:
    """Return a region for each phrase.

    Args:
        first: number of the first one; their colours go by their numbers.
        source: see ``Region``.
    """
    colours = palette(first + len(pointed.spans))[first:]
    return [
        Region(
            number=first + index,
            phrase=pointed.text[start:end],
            span=(start, end) if source == "answer" else None,
            colour=colour,
            score=float(score),
            rle=encode_mask(mask),
            source=source,
        )
        for index, ((start, end), colour, mask, score) in enumerate(
            zip(pointed.spans, colours, pointed.masks, pointed.scores, strict=True)
        )
    ]


def describe(
    grounder: Grounder,
    image: Image,
    phrases: str,
    max_new_tokens: int,
    should_stop: Callable[[], bool],
) -> Pointed:
    """Let a model describe a picture in its own words, as its grounding was trained, and point.

    Args:
        image: RGB.
        phrases, max_new_tokens: as of ``GroundedSession``.
        should_stop: see ``ChatSession``.
    """
    chat = GroundedSession(
        grounder, image, phrases=phrases, temperature=0.0, max_new_tokens=max_new_tokens
    )
    chat.should_stop = should_stop
    chat.reply(grounder.builder.question)
    assert chat.pointed is not None
    return chat.pointed


def inside(place: Place, size: tuple[int, int]) -> Place:
    """Return a point or a box, cut to a picture of ``size`` (width and height in px).

    Raises:
        Refused: neither, or nothing of it is in the picture.
    """
    numbers = [float(value) for value in place]
    if len(numbers) not in (2, 4) or not all(map(math.isfinite, numbers)):
        raise Refused("a place is a point (x, y) or a box (left, top, right, bottom)")
    if len(numbers) == 2:
        if not all(0 <= value < side for value, side in zip(numbers, size, strict=True)):
            raise Refused("the point lies outside of the picture")
        return numbers[0], numbers[1]
    left, right = (min(max(value, 0), size[0]) for value in sorted(numbers[0::2]))
    top, bottom = (min(max(value, 0), size[1]) for value in sorted(numbers[1::2]))
    if round(left) == round(right) or round(top) == round(bottom):
        raise Refused("the box is empty or lies outside of the picture")
    return left, top, right, bottom


def choose(regions: Sequence[Region], place: Place) -> Region | None:
    """Return the region with the smallest mask under a point, or the one whose mask fits a box
    best; None where no mask does.

    Args:
        place: inside of the picture.
    """
    fits = _under if len(place) == 2 else _overlap
    rated = [(fits(region, place), region) for region in regions]
    best = max((pair for pair in rated if pair[0] > 0), key=lambda pair: pair[0], default=None)
    return None if best is None else best[1]


def _under(region: Region, point: Place) -> float:
    """One over the area of a mask that holds the point, else 0."""
    x, y = point[:2]
    box = region.box
    if box is None or not (box[0] <= x < box[2] and box[1] <= y < box[3]):
        return 0.0
    mask = region.mask()
    return 1.0 / float(mask.sum()) if mask[int(y), int(x)] else 0.0


def _overlap(region: Region, place: Place) -> float:
    """Intersection over union of a mask and a box, 0 where it is too little."""
    left, top, right, bottom = map(round, _as_box(place))
    mask = region.mask()
    both = float(mask[top:bottom, left:right].sum())
    overlap = both / (float(mask.sum()) + (right - left) * (bottom - top) - both)
    return overlap if overlap >= LEAST_OVERLAP else 0.0


def _as_box(place: Place) -> Box:
    left, top, right, bottom = place  # type: ignore[misc]
    return left, top, right, bottom
