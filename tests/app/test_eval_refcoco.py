"""`inlay eval_refcoco` with a real tiny model: files, scores, a run that is gone on with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from tiny_vlms import qwen_vl

from inlay.app.evaluate.answering import Answerer
from inlay.cli import main


@pytest.fixture(scope="module")
def vlm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return qwen_vl(tmp_path_factory.mktemp("qwen_vl"))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    pictures = tmp_path / "images" / "coco" / "train2017"
    pictures.mkdir(parents=True)
    rows = []
    for number in range(3):
        Image.new("RGB", (60, 40), (80 * number, 0, 0)).save(pictures / f"{number:012}.jpg")
        row = {"img_id": f"COCO_train2014_{number:012}_0", "sents": f"thing {number}"}
        rows.append({**row, "bbox": [6, 4, 30, 20], "width": 60, "height": 40})
    path = tmp_path / "refcoco_val.json"
    path.write_text(json.dumps(rows))
    return path


def run(vlm: Path, data: Path, *words: str) -> int:
    folder = str(data.parent / "images")
    options = ["--image-folder", folder, "--work-dir", str(data.parent / "work"), "--bits", "None"]
    return main(["eval_refcoco", str(vlm), "--data-path", str(data), *options, *words])


def test_a_run_and_a_second_one(
    vlm: Path, data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(vlm, data, "--max-new-tokens", "4", "--launcher", "none", "--seed", "3") == 0
    out = capsys.readouterr().out
    assert "3 answers are no box" in out and out.rstrip().endswith("Acc: 0.0")

    said = ["{<10><10><60><60>}", "{<9><10><60><60>}", "{<70><70><90><90>}"]
    asked: list[Any] = []

    def answer(self: Any, pictures: list[Any], text: str, longest: int) -> str:
        asked.append((pictures[0].size, text, longest))
        return said[len(asked) - 1]

    monkeypatch.setattr(Answerer, "__call__", answer)
    assert run(vlm, data, "--json") == 0
    scores = json.loads(capsys.readouterr().out)
    assert scores["accuracy"] == pytest.approx(2 / 3) and scores["not_a_box"] == 0
    assert asked[1] == ((60, 40), "[refer] give me the location of thing 1", 100)
    assert run(vlm, data) == 0, "nothing is asked again"
    assert len(asked) == 3
    folders = sorted((data.parent / "work").glob("2*"))
    result = json.loads((folders[-1] / "refcoco_result.json").read_text())
    assert result["scores"] == scores and result["rows"][0]["score"] == 1.0
    assert json.loads((folders[-1] / "args.json").read_text())["max_new_tokens"] == 100


def test_refusals(vlm: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(vlm, data, "--launcher", "pytorch") == 1
    assert "was not started by torchrun" in " ".join(capsys.readouterr().err.split())
    assert main(["eval_refcoco", str(vlm), "--data-path", "none.json"]) == 1
    assert "there is no such file" in capsys.readouterr().err
