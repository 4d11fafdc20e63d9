"""Panoptic narrative grounding: groups of phrases on small maps, and on real ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from evaluation.pointers import BOXES, COLOURS, SIZE, Eye, blocks, run
from PIL import Image

from inlay.core.errors import DataError
from inlay.evaluation.phrases import load as load_phrases
from inlay.evaluation.png import load

IDS = {"red": 7, "green": 300, "blue": 70_000}
"""Numbers of panoptic segments that need one, two and three bytes."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Red and green are things, blue is stuff."""
    (tmp_path / "images").mkdir()
    (tmp_path / "panoptic_val2017").mkdir()
    blocks().save(tmp_path / "images" / "1.png")
    ids = np.zeros((SIZE[1], SIZE[0]), int)
    for colour, (left, top, right, bottom) in BOXES.items():
        ids[top:bottom, left:right] = IDS[colour]
    rgb = np.stack([ids % 256, ids // 256 % 256, ids // 65536], -1).astype(np.uint8)
    Image.fromarray(rgb).save(tmp_path / "panoptic_val2017" / "1.png")
    categories = [{"id": n, "isthing": int(c != "blue")} for n, c in enumerate(COLOURS)]
    segments = [{"id": i, "category_id": n} for n, i in enumerate(IDS.values())]
    panoptic: dict[str, Any] = {
        "images": [{"id": 1, "file_name": "1.png", "width": SIZE[0], "height": SIZE[1]}],
        "annotations": [{"image_id": 1, "file_name": "1.png", "segments_info": segments}],
        "categories": categories,
    }
    (tmp_path / "panoptic_val2017.json").write_text(json.dumps(panoptic))

    def piece(text: str, *colours: str) -> dict[str, Any]:
        ids = [str(IDS[c]) for c in colours]
        return {"utterance": text, "segment_ids": ids, "plural": len(colours) > 1}

    rows = [
        [piece("A red bad", "red"), piece(" and"), piece(" green", "green"), piece(" by")],
        [piece("red and green", "red", "green"), piece(" on bad blue", "blue")],
        [piece("nothing at all")],
    ]
    narratives = [{"image_id": "1", "segments": row} for row in rows]
    (tmp_path / "png_coco_val2017.json").write_text(json.dumps(narratives))
    return tmp_path


def share(*colours: str) -> float:
    boxes = [BOXES[c] for c in colours]
    return sum((r - x) * (b - y) for x, y, r, b in boxes) / (SIZE[0] * SIZE[1])


def test_average_recall_by_group(folder: Path) -> None:
    task, eye = load(folder), Eye(wrong="bad")
    scores = task.score(run(task, eye)).scores
    assert eye.captions[0] == (
        ("A red bad", True),
        (" and", False),
        (" green", True),
        (" by", False),
    )
    assert eye.texts == [False, False]
    red, blue = share("red"), share("blue")
    assert scores["num_phrases"] == {
        "overall": 4,
        "singular": 3,
        "plural": 1,
        "things": 3,
        "stuff": 1,
    }
    assert scores["average_recall"] == pytest.approx(
        {
            "overall": (red + 1 + 1 + blue) / 4,
            "singular": (red + 1 + blue) / 3,
            "plural": 1.0,
            "things": (red + 1 + 1) / 3,
            "stuff": blue,
        }
    )
    assert scores["P@0.5"]["overall"] == 0.5
    assert load(folder, limit=1).keys == ["1"]


def test_files_that_are_not_there(folder: Path) -> None:
    (folder / "panoptic_val2017" / "1.png").unlink()
    with pytest.raises(DataError, match="no narrative with a mask"):
        load(folder)
    (folder / "panoptic_val2017.json").unlink()
    with pytest.raises(DataError, match="no file of panoptic annotations"):
        load(folder)


@pytest.mark.shared
def test_real_maps(shared_data: Path) -> None:
    task = load(shared_data / "grounding" / "png")

    class Thirds:
        def segment(
            self, image: Image.Image, pieces: Any, *_: Any
        ) -> tuple[np.ndarray, np.ndarray]:
            mask = np.zeros((sum(n for _, n in pieces), image.height, image.width), bool)
            mask[:, image.height // 3 :] = True
            return mask, np.ones(len(mask), np.float32)

    result = task.score(run(task, Thirds()))
    assert result.scores["num_phrases"]["overall"] == 92
    things = [row["iou"] for row in result.rows if row["thing"]]
    assert result.scores["average_recall"]["things"] == pytest.approx(np.mean(things))
    # the summed recall of the benchmark's own evaluation, at coarser steps
    step, values = 1e-3, np.array([row["iou"] for row in result.rows])
    summed = sum(step * (values >= t).mean() for t in np.arange(0, 1, step))
    assert result.scores["average_recall"]["overall"] == pytest.approx(summed, abs=2 * step)


def test_phrase_sets(tmp_path: Path) -> None:
    blocks().save(tmp_path / "a.png")
    left, top, right, bottom = BOXES["green"]
    corners = [left, top, right, top, right, bottom, left, bottom]
    row = {
        "image": "a.png",
        "caption": "A green block and a bad block.",
        "phrases": [{"text": "A green block", "object": 0}, {"text": "a bad block", "object": 0}],
        "objects": [{"bbox": [left, top, right - left, bottom - top], "segmentation": [corners]}],
    }
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n")
    task, eye = load_phrases(tmp_path / "rows.jsonl"), Eye(wrong="bad")
    scores = task.score(run(task, eye)).scores
    assert "".join(text for text, _ in eye.captions[0]) == row["caption"]
    assert eye.texts == [True], "tokenised as one text, as in training"
    assert scores["mIoU"] == pytest.approx((1 + share("green")) / 2)
    assert scores["num_phrases"] == 2 and scores["P@0.5"] == 0.5
    (tmp_path / "rows.jsonl").write_text(json.dumps({**row, "phrases": []}) + "\n")
    with pytest.raises(DataError, match="no phrase with a mask"):
        load_phrases(tmp_path / "rows.jsonl")
