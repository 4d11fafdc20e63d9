"""Pictures of samples with their masks, drawn while a grounding run goes on."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from runs import trained
from test_feature_cache import folder, good  # noqa: F401 (a fixture)

from inlay.chat.overlay import palette


@pytest.fixture(scope="module")
def work(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:  # noqa: F811
    work = tmp_path_factory.mktemp("overlays") / "w"
    good(folder, work, "save_steps=4", "max_epochs=2")
    return work


def test_true_masks_stand_beside_those_of_the_model(work: Path) -> None:
    (file,) = work.glob("*/vis_data/images.json")
    (line,) = [json.loads(line) for line in file.read_text().splitlines()]  # of six iterations
    assert (line["step"], line["name"], len(line["images"])) == (4, "grounding", 4)
    for shown in line["images"]:
        phrases = shown["caption"].split("; ")
        assert any(phrase.startswith("block") for phrase in phrases)
        pixels = np.asarray(Image.open(shown["file"]).convert("RGB"))
        above_legend, left = int(0.85 * pixels.shape[0]), pixels.shape[1] // 2 - 4
        uppermost = palette(len(phrases))[-1]  # both phrases have one mask: it hides the first
        outline = (pixels[:above_legend, :left] == uppermost).all(-1)
        assert 20 < outline.sum() < 0.2 * outline.size, "the true mask has its outline"


def test_drawing_changes_nothing_that_is_trained(
    work: Path,
    folder: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    good(folder, tmp_path / "w", "save_steps=1000", "max_epochs=2")
    assert not list((tmp_path / "w").glob("*/vis_data/images.json"))
    assert trained(tmp_path / "w") == trained(work)
