"""The tiny VLM that ships with the package, with a random mask head on top."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

import inlay
from inlay.chat.grounder import Grounder
from inlay.chat.open import open_model
from inlay.data import SequenceBuilder
from inlay.models import FrozenGrounding, GenericAdapter, UNetHead

MODEL = str(Path(inlay.__file__).parent / "app" / "demo_data" / "tiny_vlm")
RECIPE = "tiny_vlm_grounding_scenes_e2"
PROMPT = "<image>\ndescribe the picture."  # the recipe's
BASE_CHANNELS = 8


def tiny_grounder(**settings: Any) -> Grounder:
    """Return a grounder on the CPU in float32; ``settings`` are those of ``FrozenGrounding``."""
    opened = open_model(MODEL, dtype="fp32")
    processor = opened.image_processor
    assert processor is not None
    torch.manual_seed(0)
    model = FrozenGrounding(
        lmm=GenericAdapter(opened.model),
        image_processor=processor,
        mask_head=UNetHead(base_channels=BASE_CHANNELS),
        **settings,
    )
    builder = SequenceBuilder(opened.tokenizer, processor, prompt=PROMPT)
    return Grounder(model.lmm, builder, model.eval())


def checkpoint(folder: Path, grounder: Grounder) -> list[str]:
    """Write what was trained in F-LMM's layout, and a config for it; return two arguments."""
    from inlay.config.load import load_config
    from inlay.convert.flmm import write_flmm

    assert grounder.model is not None
    head = grounder.model.mask_head.state_dict(prefix="mask_head.")
    config = folder / "grounding.py"
    overrides = [
        f"pretrained_model_name_or_path={MODEL}",
        "sam_checkpoint=None",
        f"base_channels={BASE_CHANNELS}",
    ]
    config.write_text(load_config(RECIPE, overrides).source, encoding="utf-8")
    return [str(write_flmm(head, folder / "head.pth")), str(config)]


def scene(number: int = 0) -> Any:
    """Return a drawn scene, RGB."""
    from inlay.data.scenes.build import example
    from inlay.data.scenes.draw import draw

    return draw(example("train", 2, number).scene)
