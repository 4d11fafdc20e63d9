"""The demo's second act: the shipped model sees, and learns a shape that it has never seen."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from inlay.app.demo import scenes as demo_scenes
from inlay.app.demo.scenes import MODEL, QUESTIONS, answerer, next_steps, replies, see, unpack
from inlay.cli import main
from inlay.config.load import load_config
from inlay.data.scenes.draw import COLOURS
from inlay.evaluation.ask import ask
from inlay.evaluation.scenes import SceneTask

SHIPPED = Path(__file__).resolve().parents[2] / "inlay" / "app" / "demo_data" / MODEL
LEAST = {"seen": 0.85, "pairs": 0.85, "relations": 0.85}
"""Share of right answers; ``benchmarks/tiny_vlm.py`` measures it on more scenes."""


def test_the_shipped_model_is_small_and_whole() -> None:
    files = [file for file in SHIPPED.rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) <= 4 << 20
    names = {str(file.relative_to(SHIPPED)) for file in files}
    assert {"image_processor.json", "model.safetensors", "tokenizer.json"} <= names
    assert {"projector/model.safetensors", "visual_encoder/model.safetensors"} <= names


@pytest.mark.parametrize("split", LEAST)
def test_the_shipped_model_sees_combinations_that_it_was_never_shown(split: str) -> None:
    answer = answerer(SHIPPED)

    def accuracy(swapped: bool) -> float:
        task = SceneTask(split, 12, seed=3, swapped=swapped)
        return task.score(ask(task.questions, answer, task.max_new_tokens)).scores["accuracy"]

    seen = accuracy(False)
    assert seen >= LEAST[split]
    assert accuracy(True) < seen - 0.3, "without its picture a question is a guess"


def test_the_second_act_runs_and_its_export_says_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INLAY_CACHE", str(tmp_path / "cache"))
    for name, count in {"ROWS": 48, "REMINDERS": 16, "SCENES": 1}.items():
        monkeypatch.setattr(demo_scenes, name, count)
    folder = tmp_path / "eyes"
    console = Console(record=True, width=120)
    assert see(folder, console) == 0
    text = console.export_text()
    assert all(question in text for question in QUESTIONS) and str(folder / "heart.png") in text
    (checkpoint,) = (folder / "run").glob("iter_*")
    said, _ = replies(folder, checkpoint)
    config, parts = str(folder / "see.py"), folder / "parts"
    assert main(["convert", "pth_to_hf", config, str(checkpoint), str(parts), "--fp32"]) == 0
    with Image.open(folder / "heart.png") as picture:
        assert answerer(parts)([picture.convert("RGB")], QUESTIONS[0], 40) == said[0]


@pytest.mark.long
def test_the_second_act_learns_the_new_shape(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INLAY_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "eyes"
    assert see(folder, Console(quiet=True)) == 0
    (checkpoint,) = (folder / "run").glob("iter_*")
    before, right_before = replies(folder, None)
    after, right_after = replies(folder, checkpoint)
    assert "heart" not in before[0] and "yellow heart" in after[0]
    assert right_before["that name a heart"] == 0 and right_after["that name a heart"] > 0.6
    assert right_after["all others"] > right_before["all others"] - 0.15, "it forgot"


def test_the_folder_holds_what_the_questions_are_about(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo_scenes, "ROWS", 100)
    config = unpack(tmp_path / "eyes")
    rows = [json.loads(x) for x in (tmp_path / "eyes" / "train.jsonl").read_text().splitlines()]
    assert len(rows) == demo_scenes.ROWS + demo_scenes.REMINDERS
    shapes = [{thing["shape"] for thing in row["objects"]} for row in rows]
    assert sum("heart" in found for found in shapes) == demo_scenes.ROWS
    assert load_config(str(config)).data_path == str(tmp_path / "eyes" / "train.jsonl")
    pixels = np.asarray(Image.open(tmp_path / "eyes" / "heart.png").convert("RGB"), np.int16)
    is_yellow = np.abs(pixels - np.array(COLOURS["yellow"])).max(axis=2) <= 20
    assert is_yellow.sum() > 60


def test_the_commands_to_go_on_with_name_the_files() -> None:
    text = next_steps(Path("d/see.py"), Path("d"), Path("d/run/iter_9"))
    assert "convert pth_to_hf d/see.py d/run/iter_9 d/parts" in text
    assert "chat d/parts --image d/heart.png" in text
