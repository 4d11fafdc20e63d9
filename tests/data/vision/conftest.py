"""Vision encoders' folders (config and image processor, no weights) and pictures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def tokenizer(tiny_tokenizer: Path) -> Any:
    """A fresh copy of the tiny tokenizer: processors add tokens to it."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny_tokenizer)


@pytest.fixture
def encoder(tmp_path: Path) -> Callable[..., Path]:
    """Save a config and an image processor of transformers as an encoder's folder."""

    def save(config: Any, processor: Any) -> Path:
        folder = tmp_path / type(processor).__name__
        config.save_pretrained(folder)
        processor.save_pretrained(folder)
        return folder

    return save


@pytest.fixture
def picture() -> Callable[..., Image.Image]:
    """A picture of noise and slopes; the same size and seed, the same picture."""

    def draw(width: int, height: int, seed: int = 0) -> Image.Image:
        noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3))
        slope = np.linspace(0, 255, width)[None, :, None]
        return Image.fromarray(((noise + slope) / 2).astype(np.uint8))

    return draw
