"""Stand-ins for a model that points, and small data of the real formats."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 30), "blue": (30, 30, 220)}
SIZE = (40, 30)
BOXES = {"red": (2, 3, 14, 12), "green": (20, 5, 34, 25), "blue": (5, 16, 15, 28)}
"""Left, top, right, bottom of the block of each colour."""


class Eye:
    """Points at the pixels of the colour that a piece names; at nothing without a colour.

    Args:
        wrong: pieces with this text are answered by the whole picture.
        say: what ``answer`` returns.
    """

    def __init__(self, wrong: str = "", say: Callable[..., str] | None = None) -> None:
        self.wrong, self.say = wrong, say
        self.captions: list[tuple[tuple[str, bool], ...]] = []
        self.texts: list[bool] = []
        self.prompts: list[str | None] = []
        self.asked: list[tuple[list[tuple[int, int]], str, int]] = []

    def segment(
        self,
        image: Image.Image,
        pieces: Sequence[tuple[str, bool]],
        is_text: bool = False,
        prompt: str | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        assert image.mode == "RGB"
        self.prompts.append(prompt)
        self.texts.append(is_text)
        self.captions.append(tuple(pieces))
        pixels = np.asarray(image).astype(int)
        found = []
        for text in [text for text, is_named in pieces if is_named]:
            near = [np.abs(pixels - rgb).sum(-1) < 90 for c, rgb in COLOURS.items() if c in text]
            mask = np.zeros(pixels.shape[:2], bool) if not near else np.any(near, axis=0)
            found.append(~np.zeros_like(mask) if self.wrong and self.wrong in text else mask)
        return np.stack(found), np.full(len(found), 0.5, np.float32)

    def answer(
        self, pictures: list[Image.Image], text: str, max_new_tokens: int, prefix: str = ""
    ) -> str:
        self.asked.append(([p.size for p in pictures], text, max_new_tokens))
        text += prefix
        return self.say(pictures, text) if self.say else "yes"


def blocks(colours: Sequence[str] = tuple(COLOURS)) -> Image.Image:
    """A grey picture with a block of each colour at its place."""
    pixels = np.full((SIZE[1], SIZE[0], 3), 128, np.uint8)
    for colour in colours:
        left, top, right, bottom = BOXES[colour]
        pixels[top:bottom, left:right] = COLOURS[colour]
    return Image.fromarray(pixels)


def coco_box(colour: str) -> list[int]:
    left, top, right, bottom = BOXES[colour]
    return [left, top, right - left, bottom - top]


def polygon(colour: str) -> list[list[int]]:
    left, top, right, bottom = BOXES[colour]
    return [[left, top, right, top, right, bottom, left, bottom]]


def write_refcoco(folder: Path, refs: Sequence[dict[str, Any]], pictures: int = 2) -> Path:
    """``instances.json``, ``refs.json`` and pictures; annotation ``10 * picture + place`` is the
    block of the colour at that place of ``COLOURS``, number 3 of each has a box only.

    Args:
        refs: ``image_id``, ``ann_id``, ``sentences`` (texts), ``split``.
    """
    (folder / "images").mkdir(parents=True)
    images, annotations = [], []
    for picture in range(pictures):
        name = f"{picture}.png"
        blocks().save(folder / "images" / name)
        images.append({"id": picture, "file_name": name, "width": SIZE[0], "height": SIZE[1]})
        for place, colour in enumerate(COLOURS):
            about = {"id": 10 * picture + place, "image_id": picture, "bbox": coco_box(colour)}
            annotations.append({**about, "segmentation": polygon(colour)})
        about = {"id": 10 * picture + 3, "image_id": picture, "bbox": coco_box("red")}
        annotations.append(about)
    value = {"images": images, "annotations": annotations, "categories": []}
    (folder / "instances.json").write_text(json.dumps(value))
    rows = [
        {**ref, "ref_id": n, "sentences": [{"raw": text} for text in ref["sentences"]]}
        for n, ref in enumerate(refs)
    ]
    (folder / "refs.json").write_text(json.dumps(rows))
    return folder


def run(task: Any, model: Any) -> dict[str, dict[str, Any]]:
    """Every item's row, as it comes back from its file."""
    return {key: json.loads(json.dumps(task.run(key, model))) for key in task.keys}
