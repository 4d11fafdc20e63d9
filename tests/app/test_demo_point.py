"""The demo's third act: what ships points at held-out combinations, by its words."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from inlay.app.demo import point as demo_point
from inlay.app.demo.point import ground_alone, mean_iou, next_steps, point, unpack
from inlay.app.grounder import REFINER, SHIPPED_GROUNDER, OpenGrounder, open_grounder
from inlay.config.load import load_config
from inlay.data.scenes.build import TEST_SPLITS, example

SHIPPED = Path(__file__).resolve().parents[2] / "inlay" / "app" / "demo_data" / SHIPPED_GROUNDER
LEAST, LEAST_ALONE = 0.75, 0.7
"""Mean IoU of captions, and of phrases on their own; see ``benchmarks/tiny_grounding.py``."""


@pytest.fixture(scope="module")
def shipped() -> OpenGrounder:
    return open_grounder()


def test_what_ships_is_small_and_whole() -> None:
    files = [file for file in SHIPPED.rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) <= 3 << 20
    names = {str(file.relative_to(SHIPPED)) for file in files}
    assert {"config.py", "model.safetensors", "manifest.json"} <= names
    assert {f"{REFINER}/config.json", f"{REFINER}/model.safetensors"} <= names
    config = (SHIPPED / "config.py").read_text(encoding="utf-8")
    assert not re.search(r"""["']/""", config), "a path of the machine that trained it"


@pytest.mark.parametrize("split", TEST_SPLITS)
def test_it_points_at_combinations_that_training_never_showed(
    split: str, shipped: OpenGrounder
) -> None:
    assert mean_iou(shipped, [example(split, 5, number) for number in range(10)]) >= LEAST


def test_it_points_at_a_phrase_on_its_own_wherever_its_thing_stands(shipped: OpenGrounder) -> None:
    """So has `inlay ground` them: the first phrase is not always of the leftmost thing."""
    scenes = [example("pairs", 5, number) for number in range(20)]
    assert mean_iou(shipped, scenes, ground_alone) >= LEAST_ALONE


def test_with_another_language_model_it_points_at_nothing() -> None:
    """Else the mask head would have learned the pictures, not what words look at."""
    grounder = open_grounder()
    torch.manual_seed(0)
    for weight in grounder.lmm.decoder.parameters():
        weight.data = torch.randn_like(weight) * weight.std() + (weight.ndim == 1)
    assert mean_iou(grounder, [example("seen", 5, number) for number in range(10)]) < 0.2


def test_the_third_act_runs_and_draws_its_masks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, count in {"ROWS": 60, "SCENES": 2}.items():
        monkeypatch.setattr(demo_point, name, count)
    console = Console(record=True, width=140)
    folder = tmp_path / "hand"
    assert point(folder, console) == 0
    text = console.export_text()
    assert str(folder / "masks.png") in text and "mean IoU over 2 scenes" in text
    with Image.open(folder / "masks.png") as drawn:
        assert drawn.width == 384 and len(np.unique(np.asarray(drawn))) > 20
    (checkpoint,) = (folder / "run").glob("iter_*")
    assert open_grounder(str(folder / "model"), str(checkpoint)).model is not None


@pytest.mark.long
@pytest.mark.timeout(900)
def test_the_third_act_learns_to_point(tmp_path: Path) -> None:
    folder = tmp_path / "hand"
    assert point(folder, Console(quiet=True)) == 0
    (checkpoint,) = (folder / "run").glob("iter_*")
    scenes = [example("pairs", 6, number) for number in range(20)]
    model = str(folder / "model")
    before = mean_iou(open_grounder(model), scenes)
    after = mean_iou(open_grounder(model, str(checkpoint)), scenes)
    assert after > 0.65 and after > before + 0.3


def test_the_config_and_the_commands_name_the_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo_point, "ROWS", 4)
    folder = tmp_path / "hand"
    config = unpack(folder)
    assert load_config(str(config)).data_path == str(folder / "seen.jsonl")
    text = next_steps(config, folder, folder / "run" / "iter_9")
    assert f"--ground {folder / 'run' / 'iter_9'}" in text
    assert f"--image {folder / 'images' / 'seen_000000.png'}" in text
    assert (folder / "images" / "seen_000000.png").is_file()
