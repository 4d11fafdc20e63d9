"""A checkpoint of a run is opened as it is, whatever was trained: the weights are the run's."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import runs
import torch
from PIL import Image
from test_export_vlm import trained  # noqa: F401 (a fixture)

from inlay.app.evaluate.answering import Answerer
from inlay.app.open_model import open_model
from inlay.chat.open import Opened
from inlay.cli import main
from inlay.core.errors import ConfigError, ModelError
from inlay.engine import checkpoint as ckpt

Trained = Callable[[str], tuple[Path, Path]]


def holds(opened: Opened, checkpoint: Path) -> None:
    """The opened model has each weight of the checkpoint, under its name or the wrapper's."""
    saved = ckpt.load_weights(checkpoint)
    there = dict(opened.model.named_parameters())
    assert saved
    for name, weight in saved.items():
        found = there.get(name)
        found = there[name.removeprefix("llm.")] if found is None else found
        assert torch.equal(found, weight.to(found.device)), name


QUANTISED = """
from transformers import BitsAndBytesConfig
model["llm"]["quantization_config"] = dict(type=BitsAndBytesConfig, load_in_4bit=True)
"""


@pytest.mark.parametrize("kind", ["full", "lora", "qlora"])
def test_a_language_model(tmp_path: Path, tiny_model: Path, kind: str) -> None:
    template = "qwen_chat"
    config = runs.write_config(
        tmp_path,
        tiny_model,
        dropout=None if kind == "full" else 0.1,
        prompt_template=template,
        max_epochs=1,
        save_steps=3,
    )
    if kind == "qlora":
        config.write_text(config.read_text() + QUANTISED)
    runs.train(config, tmp_path / "w")
    opened = open_model(str(tmp_path / "w/iter_3"))
    assert (opened.template, opened.image_processor, opened.model.training) == (
        template,
        None,
        False,
    )
    holds(opened, tmp_path / "w/iter_3")
    last = open_model(str(tmp_path / "w"))  # a work dir stands for its last checkpoint
    holds(last, ckpt.locate(tmp_path / "w"))
    said = Answerer(last, last.template)([], "row 3?", 5)
    assert isinstance(said, str)
    if kind != "qlora":
        assert open_model(str(tmp_path / "w"), dtype="bf16").model.dtype is torch.bfloat16


@pytest.mark.parametrize("kind", ["lora", "backbones", "hf"])
def test_a_model_with_eyes(trained: Trained, kind: str) -> None:  # noqa: F811
    config, checkpoint = trained(kind)
    opened = open_model(str(checkpoint))
    assert opened.image_processor is not None
    holds(opened, checkpoint)
    picture = Image.open(config.parent / "red.png")
    assert isinstance(Answerer(opened, opened.template)([picture], "What?", 3), str)


def test_eval_judges_a_checkpoint(
    trained: Trained,  # noqa: F811
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    config, checkpoint = trained("backbones")
    data = tmp_path / "vqa.jsonl"
    row = {"question": "What?", "answers": ["red"], "image": str(config.parent / "red.png")}
    data.write_text(json.dumps(row) + "\n")
    out = tmp_path / "step_2.json"
    words = ["eval", "vqa", "--model", str(checkpoint), "--data", str(data), "--out", str(out)]
    words += ["--image-folder", str(config.parent), "--work-dir", str(tmp_path / "work")]
    assert main(words) == 0
    assert "accuracy" in json.loads(out.read_text())["scores"]["vqa"]
    capsys.readouterr()


def test_options_that_it_knows_itself_are_refused(trained: Trained) -> None:  # noqa: F811
    _, checkpoint = trained("lora")
    with pytest.raises(ConfigError, match="--bits cannot be put on a training checkpoint"):
        open_model(str(checkpoint), bits=4)
    with pytest.raises(ModelError):
        open_model(str(checkpoint.parent / "nothing"))
