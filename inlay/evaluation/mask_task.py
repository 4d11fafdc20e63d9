"""Captions with masks: what grounding is asked, and what is kept of its answer."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from inlay.core.errors import InlayError
from inlay.core.rle import encode_mask
from inlay.evaluation.mask_metrics import (
    cumulative_iou,
    generalised,
    ious,
    mean_iou,
    overlap,
    precision_at,
)
from inlay.evaluation.records import Piece, Pointer

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL.Image import Image

    from inlay.data.grounding.source import GroundingSource


@dataclass(slots=True)
class Caption:
    """A caption about a picture, and what its pieces show.

    Attributes:
        key: its name in the task, unique.
        pieces: of the caption, in order.
        picture: opens the picture, RGB; raises ``DataError`` where it is broken.
        masks: reads what is right, 0 or 1 ``[M, H, W]`` at the picture's size, one for each piece
            that names something; all 0 where nothing in the picture is meant.
        groups: what each of the masks counts for, by name of the group.
        is_text: the pieces are stretches of one text, see ``GroundingSource``.
    """

    key: str
    pieces: tuple[Piece, ...]
    picture: Callable[[], Image]
    masks: Callable[[], NDArray[np.uint8]]
    groups: list[dict[str, Any]]
    is_text: bool = False

    @property
    def phrases(self) -> list[str]:
        """The pieces that name something."""
        return [text for text, is_named in self.pieces if is_named]


class MaskTask:
    """Runs captions; what the numbers mean is up to the task.

    Args:
        captions: in the order of the data.
        identity: of the data, see ``ItemTask``.

    Attributes:
        captions: by key.
    """

    def __init__(self, captions: Iterable[Caption], identity: Any) -> None:
        self.identity = identity
        self.captions = {caption.key: caption for caption in captions}
        self.keys = list(self.captions)

    def run(self, key: str, model: Pointer) -> dict[str, Any]:
        """Return pixel counts and the masks of a caption, see ``compare``.

        A caption that the model cannot read (it is too long) has empty masks and a ``problem``.

        Raises:
            DataError: the picture or what is right cannot be read.
        """
        caption = self.captions[key]
        image, truth = caption.picture(), np.asarray(caption.masks()).astype(bool)
        try:
            masks, scores = model.segment(image, caption.pieces, caption.is_text)
        except InlayError as error:
            empty = compare(np.zeros_like(truth), truth, np.zeros(len(truth), np.float32))
            return {**empty, "problem": str(error)}
        return compare(np.asarray(masks, bool), truth, scores)

    def rows(self, found: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Return one dict a mask: where it stands, what is said, its groups, its pixel counts and
        its ``iou``."""
        rows: list[dict[str, Any]] = []
        for key, caption in self.captions.items():
            row = found[key]
            values = ious(row["intersections"], row["unions"])
            for place, phrase in enumerate(caption.phrases):
                counts = {name: row[name][place] for name in _COUNTS}
                counts |= {"confidence": row["scores"][place], "iou": float(values[place])}
                about = {"key": key, "place": place, "phrase": phrase, **caption.groups[place]}
                rows.append(about | counts)
        return rows


def entry_caption(
    source: GroundingSource, index: int, key: str, groups: list[dict[str, Any]]
) -> Caption:
    """Return the caption of a source's entry, as training reads it in its first epoch.

    Args:
        groups: of each of the entry's masks.
    """
    words = source.pieces(index)
    numbers = [number for _, number in words if number >= 0]
    return Caption(
        key,
        tuple((text, number >= 0) for text, number in words),
        partial(source.image, index),
        lambda: source.masks(index)[numbers],
        [groups[number] for number in numbers],
        source.is_text,
    )


_COUNTS = ("intersections", "unions", "areas", "truths")


def compare(
    masks: NDArray[np.bool_], truth: NDArray[np.bool_], scores: NDArray[np.float32]
) -> dict[str, Any]:
    """Return what is kept of one caption's masks, as JSON values, one of each a mask.

    ``intersections``, ``unions``, ``areas`` (predicted) and ``truths`` (right) in px, ``scores``,
    and the masks themselves, ``rles``.

    Args:
        masks, truth: bool ``[M, H, W]``.
        scores: ``[M]``.

    Raises:
        ValueError: the shapes differ.
    """
    intersections, unions = overlap(masks, truth)
    return {
        "intersections": intersections.tolist(),
        "unions": unions.tolist(),
        "areas": masks.sum((1, 2)).tolist(),
        "truths": truth.sum((1, 2)).tolist(),
        "scores": [round(float(score), 6) for score in scores],
        "rles": [encode_mask(mask) for mask in masks],
    }


def summary(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return cIoU, mIoU and P@0.5 to P@0.9 of rows of ``MaskTask.rows``.

    Where expressions without a target are among them, gIoU, N-acc and T-acc as well; mIoU then
    counts their empty masks as 0, gIoU does not.
    """
    columns = {name: [row[name] for row in rows] for name in _COUNTS}
    inside, outside = columns["intersections"], columns["unions"]
    found = {"cIoU": cumulative_iou(inside, outside), "mIoU": mean_iou(inside, outside)}
    shares = precision_at(ious(inside, outside))
    found |= {f"P@{threshold}": share for threshold, share in shares.items()}
    no_target = np.asarray(columns["truths"]) == 0
    if no_target.any():
        found |= generalised(inside, outside, columns["areas"], no_target)
    return {name: value for name, value in found.items() if not math.isnan(value)}


def left_out(sources: Iterable[GroundingSource]) -> list[str]:
    """Return why rows of the data cannot be used, the first ten of each source with their place,
    and how many."""
    lines = []
    for source in sources:
        report = source.report
        lines += [f"{bad['file']}, row {bad['line']}: {bad['reason']}" for bad in report.bad_rows]
        if report.bad:
            lines.append(f"{report.bad} of {report.rows} rows in all")
    return lines
