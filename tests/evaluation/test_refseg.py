"""RefCOCO's two protocols on small data whose right answers are known, and on real photos."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from evaluation.pointers import BOXES, SIZE, Eye, run, write_refcoco
from PIL import Image

from inlay.core.errors import ConfigError, DataError, ModelError
from inlay.evaluation.refseg import load

PIXELS = SIZE[0] * SIZE[1]


def ref(image: int, ann: Any, *sentences: str, split: str = "val") -> dict[str, Any]:
    return {"image_id": image, "ann_id": ann, "sentences": sentences, "split": split}


def area(colour: str) -> int:
    left, top, right, bottom = BOXES[colour]
    return (right - left) * (bottom - top)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    refs = [
        ref(0, 0, "Red block", "the red one"),
        ref(1, 1, "green"),
        ref(0, 2, "the blue one"),
        ref(1, 2, "blue", "bad blue", split="testA"),
        ref(0, 0, "never asked", split="train"),
    ]
    return write_refcoco(tmp_path / "refcoco", refs)


def test_what_is_asked(folder: Path) -> None:
    eye = Eye()
    run(load(folder), eye)
    original = [c for c in eye.captions if len(c) > 2]
    assert original == [
        (("red block", True), (".", False), ("the blue one", True), (".", False)),
    ], "first sentences of a picture together, lower case"
    alone = [c[0][0] for c in eye.captions if len(c) == 2]
    one_of_a_picture = ["green", "blue"]
    every_sentence = ["red block", "the red one", "green", "the blue one", "blue", "bad blue"]
    assert sorted(alone) == sorted([*one_of_a_picture, *every_sentence])


def test_numbers_by_protocol_and_split(folder: Path) -> None:
    task = load(folder)
    scores = task.score(run(task, Eye(wrong="bad"))).scores
    assert scores["num_expressions"] == {
        "original": {"val": 3, "testA": 1},
        "standard": {"val": 4, "testA": 2},
    }
    assert scores["original"]["val"]["cIoU"] == scores["original"]["testA"]["mIoU"] == 1
    test_a = scores["standard"]["testA"]
    share = area("blue") / PIXELS
    assert test_a["mIoU"] == pytest.approx((1 + share) / 2)
    assert test_a["cIoU"] == pytest.approx(2 * area("blue") / (area("blue") + PIXELS))
    assert test_a["P@0.5"] == test_a["P@0.9"] == 0.5
    assert test_a["box P@0.5"] == 0.5 and "gIoU" not in test_a
    (line,) = [r for r in task.score(run(task, Eye(wrong="bad"))).rows if r["iou"] < 1]
    assert line["phrase"] == "bad blue" and line["iou"] == pytest.approx(share)


def test_nothing_and_several_things_may_be_meant(tmp_path: Path) -> None:
    refs = [
        ref(0, [0, 1], "red and green"),
        ref(0, [-1], "a dog", "the bad dog"),
        ref(1, 3, "red, with a box only"),
    ]
    task = load(write_refcoco(tmp_path / "g", refs))
    found = task.score(run(task, Eye(wrong="bad"))).scores["standard"]["val"]
    both = area("red") + area("green")
    assert found["gIoU"] == pytest.approx((1 + 1 + 0) / 3)
    assert found["cIoU"] == pytest.approx(both / (both + PIXELS))
    assert found["N-acc"] == 0.5 and found["T-acc"] == 1
    assert found["box P@0.5"] == 1, "over the two with a box"


def test_what_the_model_cannot_read_counts_as_wrong(folder: Path) -> None:
    class Short(Eye):
        def segment(self, image: Image.Image, pieces: Any, *_: Any) -> Any:
            if len(pieces) > 2:
                raise ModelError("longer than the context")
            return super().segment(image, pieces)

    task = load(folder, protocols=["original"], splits=["val"])
    scores = task.score(run(task, Short())).scores
    assert scores["not_run"] == {"original val 0": "longer than the context"}
    assert scores["original"]["val"]["mIoU"] == pytest.approx(1 / 3)
    all_of_them = area("red") + area("blue") + area("green")
    assert scores["original"]["val"]["cIoU"] == pytest.approx(area("green") / all_of_them)


def test_a_limit_and_choices(folder: Path) -> None:
    assert load(folder, limit=1).keys == [
        "original val 0",
        "standard val 0 0.0",
        "original testA 0",
        "standard testA 1 0.0",
    ]
    assert load(folder, splits=["train"], protocols=["standard"]).keys == ["standard train 0 0.0"]
    assert load(folder / "refs.json", limit=1).identity == load(folder).identity
    with pytest.raises(ConfigError, match=r"no protocol 'standart'.*Did you mean 'standard'\?"):
        load(folder, protocols=["standart"])
    with pytest.raises(DataError, match="has no split 'testC', only testA, train, val"):
        load(folder, splits=["testC"])


def test_files_that_are_not_there(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere: there is no such file or folder"):
        load(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"--image-folder"):
        load(folder, image_folder=tmp_path / "none")
    (folder / "refs2.json").write_text("[]")
    with pytest.raises(DataError, match=r"several files of references: refs.json, refs2.json"):
        load(folder)
    (folder / "refs2.json").unlink()
    (folder / "images" / "0.png").unlink()
    task = load(folder)
    left_out = task.score(run(task, Eye())).scores["left_out"]
    assert any("0.png" in line for line in left_out) and "2 of 3 rows in all" in left_out


@pytest.mark.shared
def test_real_photos_and_a_real_pickle(shared_data: Path) -> None:
    folder = shared_data / "grounding" / "refcoco"
    task = load(folder, splits=["train", "val"])
    counts = task.score(run(task, _Halves())).scores
    asked = counts["num_expressions"]
    assert sum(asked["original"].values()) == 59 and sum(asked["standard"].values()) == 60
    # by hand from the masks alone
    values, inside, outside = [], 0, 0
    for key in [key for key in task.keys if key.startswith("standard train")]:
        truth = task.captions[key].masks()[0] > 0
        half = np.zeros_like(truth)
        half[:, : truth.shape[1] // 2] = True
        inside, outside = inside + (half & truth).sum(), outside + (half | truth).sum()
        values.append((half & truth).sum() / (half | truth).sum())
    assert counts["standard"]["train"]["cIoU"] == pytest.approx(inside / outside)
    assert counts["standard"]["train"]["mIoU"] == pytest.approx(np.mean(values))


class _Halves:
    """Always points at the left half of the picture."""

    def segment(self, image: Image.Image, pieces: Any, *_: Any) -> tuple[np.ndarray, np.ndarray]:
        mask = np.zeros((sum(named for _, named in pieces), image.height, image.width), bool)
        mask[:, :, : image.width // 2] = True
        return mask, np.ones(len(mask), np.float32)
