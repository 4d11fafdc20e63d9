"""The tiny VLM that ships with the package, with a random mask head on top."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

import inlay
from inlay.chat.grounder import Grounder
from inlay.chat.open import open_model
from inlay.config.load import load_config
from inlay.data import SequenceBuilder
from inlay.models import FrozenGrounding, GenericAdapter, UNetHead

MODEL = str(Path(inlay.__file__).parent / "app" / "demo_data" / "tiny_vlm")


def _config() -> Any:
    """The recipe of the tiny VLM, smaller and without a refiner."""
    overrides = [f"pretrained_model_name_or_path={MODEL}", "sam_checkpoint=None", "base_channels=8"]
    return load_config("tiny_vlm_grounding_scenes_e1", overrides)


def tiny_grounder(**settings: Any) -> Grounder:
    """Return a grounder on the CPU in float32, with the mask head and the prompt of the recipe.

    Args:
        settings: of ``FrozenGrounding``.
    """
    config = _config()
    head = {k: v for k, v in config["model"]["mask_head"].items() if k != "type"}
    prompt = config["train_dataloader"]["dataset"]["prompt"]
    opened = open_model(MODEL, dtype="fp32")
    processor = opened.image_processor
    assert processor is not None
    torch.manual_seed(0)
    model = FrozenGrounding(
        lmm=GenericAdapter(opened.model),
        image_processor=processor,
        mask_head=UNetHead(**head),
        **settings,
    )
    builder = SequenceBuilder(opened.tokenizer, processor, prompt=prompt)
    return Grounder(model.lmm, builder, model.eval())


def checkpoint(folder: Path, grounder: Grounder) -> list[str]:
    """Write what was trained in F-LMM's layout, and a config for it; return two arguments."""
    from inlay.convert.flmm import write_flmm

    assert grounder.model is not None
    head = grounder.model.mask_head.state_dict(prefix="mask_head.")
    config = folder / "grounding.py"
    config.write_text(_config().source, encoding="utf-8")
    return [str(write_flmm(head, folder / "head.pth")), str(config)]


def scene(number: int = 0) -> Any:
    """Return a drawn scene, RGB."""
    from inlay.data.scenes.build import example
    from inlay.data.scenes.draw import draw

    return draw(example("train", 2, number).scene)
