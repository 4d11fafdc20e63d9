"""`inlay ground`: what it prints and writes, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tiny_grounder
import torch
from PIL import Image
from pycocotools import mask as coco

from inlay.chat.grounder import Grounder
from inlay.cli import main

PHRASES = ["the red circle", "a blue square"]


@pytest.fixture(scope="module")
def grounder() -> Grounder:
    return tiny_grounder.tiny_grounder()


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with a picture that is wider than high."""
    monkeypatch.chdir(tmp_path)
    tiny_grounder.scene().resize((130, 90)).save("scene.png")
    return tmp_path


def decoded(records: list[dict[str, object]]) -> np.ndarray:
    return np.stack([coco.decode(record["rle"]) for record in records]).astype(bool)


def test_a_checkpoint_points(
    here: Path, grounder: Grounder, capsys: pytest.CaptureFixture[str]
) -> None:
    weights, config = tiny_grounder.checkpoint(here, grounder)
    trained = ["--checkpoint", weights, "--config", config]
    before = (here / "scene.png").read_bytes()
    assert main(["ground", "scene.png", *PHRASES, *trained, "--json", "masks.json"]) == 0
    image = Image.open("scene.png").convert("RGB")
    masks, scores = grounder.phrases(image, PHRASES)
    records = json.loads((here / "masks.json").read_text())
    assert [set(record) for record in records] == [{"phrase", "score", "rle"}] * 2
    assert [record["phrase"] for record in records] == PHRASES
    assert [record["rle"]["size"] for record in records] == [[90, 130]] * 2
    assert np.array_equal(decoded(records), masks)
    assert np.allclose([record["score"] for record in records], scores, atol=1e-4)
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    for phrase, mask, score in zip(PHRASES, masks, scores, strict=True):
        y, x = np.nonzero(mask)
        box = f"{x.min()}, {y.min()}, {x.max() + 1}, {y.max() + 1}"
        area = f"{100 * len(x) / mask.size:.1f}"
        assert [*phrase.split(), f"{score:.2f}", area, *box.split()] in rows
    assert ["overlay:", "scene_grounded.png"] in rows and ["masks:", "masks.json"] in rows
    assert Image.open("scene_grounded.png").width == 3 * 130, "a small picture is enlarged"
    assert (here / "scene.png").read_bytes() == before


def test_training_free_by_a_model_alone(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["ground", "scene.png", *PHRASES, "--model", tiny_grounder.MODEL, "--json", "-"]
    assert main([*words, "--out", "new/far.jpg"]) == 0
    out, err = capsys.readouterr()
    records = json.loads(out)
    assert decoded(records).shape == (2, 90, 130)
    assert f"no --checkpoint: {tiny_grounder.MODEL} points without training" in err
    assert "the red circle" in err and "overlay: new/far.jpg" in err
    assert Image.open("new/far.jpg").format == "JPEG"
    assert main([*words, "--training-free"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out) == records, "the same, asked for"
    assert "no --checkpoint" not in err


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["missing.png", "a dog"], "missing.png"),
        (["broken.png", "a dog"], "broken.png"),
        (["scene.png", "a dog", " "], "phrase 2 of 2 is empty"),
        (["scene.png", "a dog", "--out", "scene.png"], "'scene.png' is the picture itself"),
        (["scene.png", "a dog", "--out", "link.png"], "'link.png' is the picture itself"),
        (["scene.png", "a dog", "--json", "scene.png"], "'scene.png' is the picture itself"),
        (["scene.png", "a dog", "--out", "."], "ends in .png"),
        (["scene.png", "a dog", "--json", "."], "'.' is a folder"),
        (["scene.png", "a dog", "--out", "over.pgn"], "Did you mean '.png'?"),
        (["scene.png", "a dog", "--model", "nowhere"], "nowhere"),
        (["scene.png", "a dog", "--checkpoint", "nowhere"], "nowhere"),
        (["scene.png", "dog " * 3000, "--model", tiny_grounder.MODEL], "shorten it"),
        (["scene.png", "a dog", "--model", tiny_grounder.MODEL, "--out", "scene.png/x.png"], "x"),
    ],
)
def test_mistakes_are_told_in_a_line(
    here: Path, words: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "broken.png").write_bytes((here / "scene.png").read_bytes()[:200])
    (here / "link.png").symlink_to("scene.png")
    files = set(here.iterdir())
    assert main(["ground", *words]) == 1
    err = capsys.readouterr().err
    line = next(line for line in err.splitlines() if line.startswith("error: "))
    assert expected in line and "Traceback" not in err
    assert set(here.iterdir()) == files, "nothing is written"


def test_a_checkpoint_of_another_model(
    here: Path, grounder: Grounder, capsys: pytest.CaptureFixture[str]
) -> None:
    weights, config = tiny_grounder.checkpoint(here, grounder)
    state = torch.load(weights)
    name = "mask_head.encoder.0.0.convs.0.conv.weight"
    torch.save(state | {name: state[name].repeat(1, 2, 1, 1)}, weights)
    words = ["ground", "scene.png", "a dog", "--checkpoint", weights, "--config", config]
    assert main(words) == 1
    assert "was trained on another language model" in capsys.readouterr().err
