"""Visual chain of thought: what is asked in which order, where it looks, what is written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from evaluation.pointers import BOXES, SIZE, Eye, blocks, run

from inlay.core.errors import ConfigError, DataError, ModelError
from inlay.evaluation.mask_metrics import box_iou
from inlay.evaluation.viscot import THOUGHT, crop_box, load, look_and_answer

ASKED = (
    "Please provide the bounding box coordinate of the region that can help you answer the "
    "question better."
)


def row(number: int, question: str, box: tuple[int, ...], answer: str) -> dict[str, Any]:
    turns = [f"<image>\n{question} {ASKED}", "[0.1, 0.1, 0.2, 0.2]", "<image>", answer]
    return {
        "dataset": "cub",
        "split": "val",
        "question_id": number,
        "image": ["cot/a.png", f"cot/a.png###{list(box)}"],
        "conversations": [
            {"from": ("human", "gpt")[n % 2], "value": turn} for n, turn in enumerate(turns)
        ],
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "cot").mkdir()
    blocks().save(tmp_path / "cot" / "a.png")
    rows = [
        row(3, "What is green?", BOXES["green"], "The block"),
        row(8, "What is red?", (-1, 3, 14, 12), "two"),
    ]
    (tmp_path / "cub.json").write_text(json.dumps(rows))
    (tmp_path / "gqa.json").write_text(json.dumps(rows[:1]))
    return tmp_path


def said(pictures: list[Any], text: str) -> str:
    if text.endswith(THOUGHT):
        return " the green block" if "green" in text else "the red block."
    return "Block" if "green" in text else "There are two of them"


def test_first_the_object_then_a_crop_then_the_answer(folder: Path) -> None:
    eye = Eye(say=said)
    (key,) = [k for k in load(folder / "cub.json").keys if k.endswith("/3")]
    found = load(folder / "cub.json", image_folder=folder).run(key, eye)
    thinking, answering = eye.asked
    assert thinking[0] == [SIZE] and thinking[2] == 16
    assert thinking[1].startswith("What is green?First think which object")
    assert not thinking[1].endswith(THOUGHT), "the answer begins with it, not the question's end"
    assert eye.captions == [((f" {THOUGHT}", False), (" the green block", True))]
    assert eye.prompts == [f"<image>{thinking[1]}"]
    left, top, right, bottom = BOXES["green"]
    assert answering[0] == [SIZE, (right - left + 2, bottom - top)], "14 px are widened to 16"
    assert "the whole image, the image region" in answering[1] and answering[2] == 32
    assert answering[1].endswith("green?\nAnswer the question using a single word or phrase.")
    box = [left - 1, top, right + 1, bottom]
    assert found == {"thought": "the green block", "box": box, "answer": "Block"}


def test_the_question_itself_and_no_second_look(folder: Path) -> None:
    eye = Eye(say=said)
    assert look_and_answer(blocks(), "What is green?", eye, "v2")[::2] == ("", "Block")
    assert eye.captions == [(("What is green?", True),)]
    assert len(eye.asked) == 1 and len(eye.asked[0][0]) == 2
    eye = Eye(say=said)
    assert look_and_answer(blocks(), "What is green?", eye, "v3") == ("", (0, 0, *SIZE), "Block")
    assert eye.captions == [] and eye.asked[0][0] == [SIZE]
    silent = Eye(say=lambda pictures, text: "")
    look_and_answer(blocks(), "What is green?", silent, "v1")
    assert silent.captions == [(("What is green?", True),)], "no thought: the question is grounded"


def test_where_it_looks() -> None:
    mask = np.zeros((60, 80), bool)
    assert crop_box(mask) == (0, 0, 80, 60), "nothing found: everything"
    mask[30, 40] = True
    assert crop_box(mask) == (32, 22, 49, 39), "8 px from the centre of the pixel to each side"
    mask[20:41, 10:71] = True
    assert crop_box(mask) == (10, 20, 71, 41)
    corner = np.zeros((60, 80), bool)
    corner[:2, 77:] = True
    assert crop_box(corner) == (70, 0, 80, 9), "inside the picture"
    assert crop_box(np.ones((4, 6), bool)) == (0, 0, 6, 4)


def test_scores_and_the_files_for_the_judge(folder: Path) -> None:
    task = load(folder)
    assert task.keys == ["cub/3", "cub/8", "gqa/3"]
    found = run(task, Eye(say=said))
    scores = task.score(found).scores
    assert scores["exact"] == pytest.approx(2 / 3), "articles and case do not count"
    assert scores["contained"] == 1 and scores["data_sets"]["cub"]["exact"] == 0.5
    left, top, right, bottom = BOXES["green"]
    green = box_iou((left - 1, top, right + 1, bottom), BOXES["green"])
    red = box_iou(tuple(found["cub/8"]["box"]), (-1, 3, 14, 12))  # type: ignore[arg-type]
    assert scores["data_sets"]["cub"]["box"] == pytest.approx((green + red) / 2)
    paths = task.write_results(folder / "judge", found)
    assert [path.name for path in paths] == ["cub.json", "gqa.json"]
    first, second = json.loads((folder / "judge" / "cub.json").read_text())
    assert (first["question"], first["gt"], first["answer"]) == (
        "What is green?",
        "The block",
        "Block",
    )
    assert second["gt_bbox"] == [-1, 3, 14, 12] and second["question_id"] == 8
    assert first.keys() >= {"thought", "box", "image"}


def test_what_the_model_cannot_do_is_named_and_counts_as_wrong(folder: Path) -> None:
    class Short(Eye):
        def segment(self, image: Any, pieces: Any, **options: Any) -> Any:
            raise ModelError("longer than the context")

    task = load(folder / "gqa.json")
    scores = task.score(run(task, Short(say=said))).scores
    assert scores["not_asked"] == {"gqa/3": "longer than the context"}
    assert scores["exact"] == scores["contained"] == scores["box"] == 0


def test_mistakes(folder: Path) -> None:
    with pytest.raises(ConfigError, match="has v1, v2, v3, found 'v4'"):
        load(folder, version="v4")
    rows = json.loads((folder / "cub.json").read_text())
    rows[1]["image"] = ["cot/a.png", "cot/a.png"]
    (folder / "cub.json").write_text(json.dumps(rows))
    with pytest.raises(DataError, match=r"cub.json, row 1: .*no box at the end of 'cot/a.png'"):
        load(folder)
    (folder / "gqa.json").write_text("{")
    with pytest.raises(DataError, match=r"gqa.json is no JSON file"):
        load(folder / "gqa.json")
    with pytest.raises(DataError, match="expected a JSON file of the benchmark"):
        load(folder / "none.json")
