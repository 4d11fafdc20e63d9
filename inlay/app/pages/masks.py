"""A page of pictures with masks: the best, the median and the worst of an evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from inlay.app.pages.page import data_url, write_page
from inlay.chat.overlay import Colour, draw, enlarged, palette
from inlay.core.rle import decode_mask
from inlay.evaluation.ask import Result
from inlay.evaluation.mask_task import Caption, MaskTask
from inlay.evaluation.records import ItemTask
from inlay.evaluation.viscot import VisualCoT

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL.Image import Image

COUNT = 4
"""Pictures of each of the three kinds."""
_SIDE = 480


def write_segment_page(path: Path, sections: Sequence[Mapping[str, Any]]) -> None:
    """Write the page.

    Args:
        sections: of all tasks, see ``sections``.
    """
    write_page(path, "masks.html", title="Best, median and worst masks", sections=sections)


def sections(
    name: str, task: ItemTask, found: Mapping[str, Mapping[str, Any]], result: Result
) -> list[dict[str, Any]]:
    """Return the page's sections of a task: ``title`` and ``captions``.

    Args:
        found: rows by key, as ``task.run`` returned them.
    """
    values: dict[str, list[float]] = {}
    for row in result.rows:
        values.setdefault(row["key"], []).append(row["box_iou" if "box_iou" in row else "iou"])
    means = {key: sum(each) / len(each) for key, each in values.items()}
    show = _shown_boxes if isinstance(task, VisualCoT) else _shown_masks
    return [
        {
            "title": f"{name}: {kind}",
            "captions": [show(task, key, found[key], values[key]) for key in keys],  # type: ignore[arg-type]
        }
        for kind, keys in pick(means).items()
    ]


def pick(means: Mapping[str, float], count: int = COUNT) -> dict[str, list[str]]:
    """Return ``best``, ``median`` and ``worst`` keys by a number, each key once; those nearest to
    the end, or to the middle, first."""
    falling = sorted(means, key=lambda key: -means[key])
    count = min(count, max(len(falling) // 3, 1))
    middle = max((len(falling) - count) // 2, count)
    picked = {
        "best": falling[:count],
        "median": falling[middle : middle + count],
        "worst": falling[max(len(falling) - count, middle + count) :][::-1],
    }
    return {kind: keys for kind, keys in picked.items() if keys}


def _shown_masks(
    task: MaskTask, key: str, row: Mapping[str, Any], values: Sequence[float]
) -> dict[str, Any]:
    caption = task.captions[key]
    colours = palette(len(caption.phrases))
    image = caption.picture()
    masks = np.stack([decode_mask(rle) for rle in row["rles"]])
    truth = np.asarray(caption.masks()).astype(bool)
    return {
        "key": key,
        "problem": row.get("problem"),
        "figures": [
            {"url": _drawn(image, masks, colours), "label": "predicted"},
            {"url": _drawn(image, truth, colours), "label": "right"},
        ],
        "parts": _parts(caption, colours, values),
        "mean": sum(values) / len(values),
    }


def _parts(
    caption: Caption, colours: Sequence[Colour], values: Sequence[float]
) -> list[dict[str, Any]]:
    """The caption in pieces, those with a mask in its colour with its IoU."""
    parts: list[dict[str, Any]] = []
    own = iter(zip(colours, values, strict=True))
    for text, is_named in caption.pieces:
        colour, value = next(own) if is_named else (None, None)
        parts.append({"text": text, "colour": colour, "value": value})
    return parts


def _shown_boxes(
    task: VisualCoT, key: str, row: Mapping[str, Any], values: Sequence[float]
) -> dict[str, Any]:
    asked = task.asked[key]
    image = task.picture(key)
    colours = palette(2)
    masks = np.zeros((2, image.height, image.width), bool)
    for mask, box in zip(masks, (row["box"], asked.box), strict=True):
        left, top, right, bottom = (max(int(edge), 0) for edge in box)
        mask[top:bottom, left:right] = True
    texts = (f"looked at: {row['thought'] or 'the question'}", "right place")
    parts = [
        {"text": text, "colour": colour, "value": None}
        for text, colour in zip(texts, colours, strict=True)
    ]
    said = f" {asked.question} Said: {row['answer']}. Right: {asked.answer}."
    return {
        "key": key,
        "problem": row.get("problem"),
        "figures": [{"url": _drawn(image, masks, colours), "label": "where it looked"}],
        "parts": [*parts, {"text": said, "colour": None, "value": None}],
        "mean": values[0],
    }


def _drawn(image: Image, masks: NDArray[np.bool_], colours: Sequence[Colour]) -> str:
    return data_url(draw(*enlarged(image, masks), colours), _SIDE)
