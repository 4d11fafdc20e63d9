"""Tiny models with eyes, trained weights included, and a probe that looks from this process."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny_vlms
import torch

from inlay.convert import probe


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the probe look from this process: its own costs seconds of imports."""

    def look_here(words: list[str], input: str, **kwargs: Any) -> subprocess.CompletedProcess[str]:
        try:
            answer = {**probe.look(json.loads(input)), "foreign": True}
        except Exception as error:
            answer = {"error": str(error)}
        return subprocess.CompletedProcess(words, 0, json.dumps(answer), "")

    monkeypatch.setattr(subprocess, "run", look_here)


@pytest.fixture(scope="session")
def backbones(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A Llama, a CLIP and a SigLIP vision tower, saved."""
    folder = tmp_path_factory.mktemp("backbones")
    return {
        "llm": tiny_vlms.llama(folder / "llm"),
        "clip": tiny_vlms.clip(folder / "clip"),
        "siglip": tiny_vlms.siglip(folder / "siglip"),
    }


def _shake(model: Any) -> Any:
    generator = torch.Generator().manual_seed(5)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += 0.05 * torch.randn(parameter.shape, generator=generator)
    return model


@pytest.fixture(scope="session")
def shaken() -> Callable[[Any], Any]:
    """Move every trained weight of a model, as training does."""
    return _shake


Made = tuple[Any, Any, Any]


@pytest.fixture
def make(backbones: dict[str, Path]) -> Callable[..., Made]:
    """Build model, tokenizer and image processor of a trained LLaVA."""

    def build(encoder: str = "clip", tiled: bool = False, **settings: Any) -> Made:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        from inlay.data import SquareImageProcessor, TiledImageProcessor
        from inlay.models import LLaVAModel, load_visual_encoder

        llm, vision = str(backbones["llm"]), str(backbones[encoder])
        tokenizer = AutoTokenizer.from_pretrained(llm)
        factor = settings.get("pixel_shuffle_factor", 1)
        if tiled:
            processor: Any = TiledImageProcessor(
                tokenizer, vision, pixel_shuffle_factor=factor, max_image_size=128
            )
        else:
            processor = SquareImageProcessor(tokenizer, vision, pixel_shuffle_factor=factor)
        torch.manual_seed(7)
        quantization = settings.pop("quantization_config", None)
        model = LLaVAModel(
            AutoModelForCausalLM.from_pretrained(llm, quantization_config=quantization),
            load_visual_encoder(vision),
            tokenizer,
            use_activation_checkpointing=False,
            **settings,
        )
        return _shake(model), tokenizer, processor

    return build
