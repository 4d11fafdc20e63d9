"""Boxes as text: how they are written, read and compared, and what is said of malformed rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from inlay.core.errors import DataError
from inlay.evaluation.ask import ask
from inlay.evaluation.text_boxes import iou, load, read_box, text_box, write_box


def test_hundredths_are_rounded_down() -> None:
    assert text_box([64, 48, 128, 96], 640, 480) == (10, 10, 30, 30)
    assert text_box([0, 0, 640, 480], 640, 480) == (0, 0, 100, 100)
    assert text_box([29, 0, 1, 1], 100, 100)[0] == 28, "0.29 * 100 is below 29: as others have it"
    assert write_box((1, 2, 30, 40)) == "{<1><2><30><40>}"


@pytest.mark.parametrize(
    ("answer", "box"),
    [
        ("{<1><2><30><40>}", (1, 2, 30, 40)),
        ("It is at 1, 2, 30 and 40.", (1, 2, 30, 40)),
        ("{<1><2><30>}", None),
        ("{<1><2><30><40>} or {<5><6><7><8>}", None),
        ("no idea", None),
    ],
)
def test_a_box_is_four_numbers(answer: str, box: Any) -> None:
    assert read_box(answer) == box


def test_iou_counts_cells() -> None:
    draw = np.random.default_rng(0)
    for _ in range(50):
        a, b = (np.sort(draw.integers(0, 20, (2, 2)), 0).ravel() for _ in range(2))
        masks = np.zeros((2, 20, 20), bool)
        for mask, (left, top, right, bottom) in zip(masks, (a, b), strict=True):
            mask[top : bottom + 1, left : right + 1] = True
        expected = (masks[0] & masks[1]).sum() / (masks[0] | masks[1]).sum()
        assert iou(tuple(a.tolist()), tuple(b.tolist())) == pytest.approx(expected)
    assert iou((30, 30, 10, 10), (0, 0, 99, 99)) == 0


ROW = {"sents": "the cat", "bbox": [64, 48, 128, 96], "width": 640, "height": 480}


def write(folder: Path, rows: Any) -> Path:
    pictures = folder / "coco" / "train2017"
    pictures.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (64, 48)).save(pictures / "000000000009.jpg")
    path = folder / "refcoco_testA.json"
    path.write_text(json.dumps(rows, indent=1))
    return path


def test_accuracy_of_answers(tmp_path: Path) -> None:
    rows = [
        {**ROW, "img_id": "COCO_train2014_000000000009_3"},
        {**ROW, "image": "coco/train2017/000000000009.jpg", "sents": "half"},
        {**ROW, "image": "elsewhere/000000000009.jpg", "sents": "words"},
        {**ROW, "image": "gone.jpg", "sents": "gone"},
    ]
    path = write(tmp_path, rows)
    Image.new("RGB", (64, 48)).save(tmp_path / "000000000009.jpg")
    said = {"cat": "{<10><10><30><30>}", "half": "{<10><10><30><20>}", "words": "on the left"}
    asked = []

    def answer(images: list[Image.Image], text: str, longest: int) -> str:
        asked.append((images[0].size, text, longest))
        return said[text.split()[-1]]

    task = load(path, tmp_path)
    result = task.score(ask(task.questions, answer, 100))
    assert asked[0] == ((64, 48), "[refer] give me the location of the cat", 100)
    assert [row["score"] for row in result.rows] == [1, 1, 0, 0]
    assert [row["iou"] for row in result.rows] == [1, pytest.approx(21 * 11 / 21**2), 0, 0]
    assert result.rows[0]["answer"] == "{<10><10><30><30>}"
    assert (result.scores["accuracy"], result.scores["not_a_box"]) == (0.5, 2)
    (why,) = result.scores["not_asked"].values()
    assert "gone.jpg" in why
    assert len(load(path, tmp_path, limit=2).items) == 2


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ("text", "expected an object"),
        ({**ROW, "sents": " ", "image": "a.jpg"}, "'sents'"),
        ({**ROW, "bbox": [1, 2, 3], "image": "a.jpg"}, "a bbox is"),
        ({**ROW, "width": 0, "image": "a.jpg"}, "width and height"),
        (ROW, "'img_id'"),
        ({**ROW, "img_id": "9"}, "'img_id'"),
    ],
)
def test_malformed_rows_are_named(tmp_path: Path, row: Any, expected: str) -> None:
    good = {**ROW, "image": "a.jpg"}
    line = len(json.dumps([good], indent=1).splitlines())  # the second row is behind the first
    with pytest.raises(DataError, match=f"json, line {line}: .*{expected}"):
        load(write(tmp_path, [good, row]), tmp_path)


def test_missing_and_empty_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no such file"):
        load(tmp_path / "none.json", tmp_path)
    with pytest.raises(DataError, match="no expressions"):
        load(write(tmp_path, []), tmp_path)
