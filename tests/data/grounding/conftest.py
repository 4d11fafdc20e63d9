"""Eyes that say where their tokens lie, and a small RefCOCO and PNG on disk."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from inlay.core.types import ImagePlan, View


class Seeing:
    """A picture becomes 2 x 2 tokens, or two tiles of them side by side above 64 px, and an end."""

    image_token = "<image_placeholder>"

    def __init__(self, tokenizer: Any, placeholder: str | None = None) -> None:
        tokenizer.add_tokens([self.image_token, "</image>"], special_tokens=True)
        names = [self.image_token, "</image>"]
        self.image_token_id, self.end = tokenizer.convert_tokens_to_ids(names)
        self.placeholder = placeholder
        self.opened = 0

    def plan(self, width: int, height: int, index: int = 0, count: int = 1) -> ImagePlan:
        if width > 20 * height:
            raise ValueError("too flat")
        tiles = 2 if width > 64 else 1
        ids = (self.image_token_id,) * (4 * tiles) + (self.end,)
        return ImagePlan(f"<{index}>" if count > 1 else "", ids, tiles)

    def views(self, width: int, height: int) -> tuple[View, ...]:
        tiles = 2 if width > 64 else 1
        side = width / tiles
        return tuple(
            View(4 * n, 2, 2, (n * side, 0.0, (n + 1) * side, float(height)), 2)
            for n in range(tiles)
        )

    def pixels(self, image: Any, seed: int = 0) -> dict[str, np.ndarray]:
        self.opened += 1
        colour = np.asarray(image, np.float32).mean((0, 1))
        return {"pixel_values": np.stack([colour] * (2 if image.width > 64 else 1))}

    def identity(self) -> str:
        return "seeing"


@pytest.fixture(scope="session")
def seeing() -> type[Seeing]:
    """``seeing(tokenizer, placeholder)``: a tiny image processor with views."""
    return Seeing


@pytest.fixture
def tokenizer(make_tokenizer: Any) -> Any:
    template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    return make_tokenizer(template, special=("<|im_start|>", "<|im_end|>"))


def square(left: int, top: int, side: int) -> list[list[float]]:
    right, bottom = left + side, top + side
    return [[left, top, right, top, right, bottom, left, bottom]]


IMAGES = [
    {"id": 7, "file_name": "seven.png", "width": 40, "height": 30},
    {"id": 8, "file_name": "eight.png", "width": 90, "height": 20},
]
ANNOTATIONS = [
    {"id": 1, "image_id": 7, "segmentation": square(2, 3, 10), "bbox": [2, 3, 10, 10]},
    {"id": 2, "image_id": 7, "segmentation": square(20, 10, 8), "bbox": [20, 10, 8, 8]},
    {"id": 3, "image_id": 8, "segmentation": square(5, 5, 6), "bbox": [5, 5, 6, 6]},
    {"id": 4, "image_id": 8, "bbox": [50, 2, 10, 10]},
    {"id": 5, "image_id": 8, "segmentation": square(-30, 5, 6), "bbox": [0, 0, 1, 1]},
]


def ref(number: int, image: int, annotation: Any, *sentences: str, split: str = "train") -> Any:
    return {
        "ref_id": number,
        "image_id": image,
        "ann_id": annotation,
        "split": split,
        "sentences": [{"raw": text, "sent": text.lower()} for text in sentences],
    }


REFS = [
    ref(0, 7, 1, "The Left Box", "box on the left", "left"),
    ref(1, 8, 3, "a tile"),
    ref(2, 7, 2, "right box", "the other"),
    ref(3, 7, [1, 2], "both boxes"),
    ref(4, 7, [-1], "a dog"),
    ref(5, 8, 4, "only a box"),
    ref(6, 8, 3, "val tile", split="val"),
]


@pytest.fixture
def coco(tmp_path: Path) -> Any:
    """``coco(refs, annotations)``: arguments of ``RefCOCO`` for files that it writes."""

    def write(refs: Any = REFS, annotations: Any = ANNOTATIONS) -> dict[str, str]:
        folder = tmp_path / "photos"
        folder.mkdir(exist_ok=True)
        for image in IMAGES:
            size = image["width"], image["height"]
            Image.new("RGB", size, (image["id"], 0, 0)).save(folder / image["file_name"])
        instances = {"images": IMAGES, "annotations": annotations, "categories": []}
        (tmp_path / "instances.json").write_text(json.dumps(instances))
        (tmp_path / "refs(unc).p").write_bytes(pickle.dumps(refs, protocol=2))
        return {
            "instances": str(tmp_path / "instances.json"),
            "refs": str(tmp_path / "refs(unc).p"),
            "image_folder": str(folder),
        }

    return write


@pytest.fixture
def narratives(tmp_path: Path) -> Any:
    """``narratives(rows)``: arguments of ``PNG``; its panoptic map has 1,000,000 on the left half,
    5 in the lower right quarter, 70,000 above it."""

    def write(rows: Any) -> dict[str, str]:
        ids = np.zeros((20, 40), np.int64)
        ids[:, :20], ids[:10, 20:], ids[10:, 20:] = 1_000_000, 70_000, 5
        (tmp_path / "maps").mkdir(exist_ok=True)
        (tmp_path / "photos").mkdir(exist_ok=True)
        colours = np.stack([ids % 256, ids // 256 % 256, ids // 65536], -1).astype(np.uint8)
        Image.fromarray(colours).save(tmp_path / "maps" / "9.png")
        Image.new("RGB", (40, 20), "blue").save(tmp_path / "photos" / "9.jpg")
        segments = [(1_000_000, 1), (70_000, 2), (5, 3)]
        panoptic = {
            "images": [{"id": 9, "file_name": "9.jpg", "width": 40, "height": 20}],
            "annotations": [
                {
                    "image_id": 9,
                    "file_name": "9.png",
                    "segments_info": [{"id": i, "category_id": c} for i, c in segments],
                }
            ],
            "categories": [
                {"id": 1, "isthing": 1, "name": "dog"},
                {"id": 2, "isthing": 0, "name": "sky"},
                {"id": 3, "isthing": 1, "name": "cat"},
            ],
        }
        (tmp_path / "panoptic.json").write_text(json.dumps(panoptic))
        (tmp_path / "png.json").write_text(json.dumps(rows))
        return {
            "json_file": str(tmp_path / "png.json"),
            "panoptic_json_file": str(tmp_path / "panoptic.json"),
            "panoptic_png_path": str(tmp_path / "maps"),
        }

    return write


def said(text: str, *ids: int, plural: bool = False) -> dict[str, Any]:
    return {"utterance": text, "segment_ids": [str(i) for i in ids], "plural": plural}


NARRATIVE = {
    "image_id": "9",
    "segments": [
        said("A"),
        said(" dog", 1_000_000),
        said(" under the"),
        said(" sky", 70_000),
        said(" with"),
        said(" animals", 1_000_000, 5, plural=True),
        said("."),
    ],
}


@pytest.fixture(scope="session")
def examples() -> SimpleNamespace:
    """What ``coco`` and ``narratives`` are made of."""
    return SimpleNamespace(
        refs=REFS, annotations=ANNOTATIONS, narrative=NARRATIVE, ref=ref, square=square, said=said
    )
