"""Runs of the nanoVLM recipe with tiny random backbones on drawn pictures, a second or two each."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tiny_vlms

SIZES = ((40, 40), (64, 48), (100, 64), (64, 128), (120, 120))
"""One tile of 64 x 64 px, or up to four and a view of the whole."""


def draw(path: Path, number: int, size: tuple[int, int] | None = None) -> str:
    """Save a picture that no other number has; return its file's name."""
    import numpy as np
    from PIL import Image

    width, height = size or SIZES[number % len(SIZES)]
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(number).integers(0, 256, (height, width, 3), np.uint8)
    Image.fromarray(noise).save(path)
    return path.name


def row(number: int, *images: str, answer: str | None = None) -> dict[str, Any]:
    """A question with pictures, and an answer of a length that depends on ``number``."""
    answer = answer or "word " * random.Random(number).randint(1, 12) + str(number)
    turns = [("user", "<image>" * len(images) + f"row {number}?"), ("assistant", answer)]
    messages = [{"role": role, "content": content} for role, content in turns]
    return {"messages": messages, **({"images": list(images)} if images else {})}


def mixed_rows(folder: Path, count: int) -> list[dict[str, Any]]:
    """Rows with a picture each, but every third one is text; pictures go to ``folder``."""
    return [row(i, draw(folder / f"{i}.png", i)) if i % 3 else row(i) for i in range(1, count + 1)]


def write(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    """Write JSON lines: the first row is line 1."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


class Backbones:
    """A random Llama and a random SigLIP of 8 x 8 patches, in files: the recipe with them."""

    def __init__(self, folder: Path) -> None:
        self.llm = tiny_vlms.llama(folder / "llm", width=32)
        self.encoder = tiny_vlms.siglip(folder / "siglip")

    def options(self, data: Path, **settings: Any) -> list[str]:
        """``NAME=value`` words of a run in float32 that logs every iteration.

        Args:
            settings: of PART 1 by the recipe's names, or places with ``__`` for a dot.
        """
        values = {
            "lm_model_type": self.llm,
            "vit_model_type": self.encoder,
            "mp_pixel_shuffle_factor": 2,
            "max_img_size": 256,
            "train_dataset_path": data,
            "stream_dataset": False,
            "lm_max_length": 256,
            "max_sample_length": 256,
            "val_size": 0,
            "batch_size": 1,
            "gradient_accumulation_steps": 2,
            "dataloader_num_workers": 0,
            "max_training_steps": 4,
            "eval_interval": 100,
            "evaluation_inputs": [],
            "optim_wrapper__dtype": "float32",
            "default_hooks__logger__interval": 1,
            **settings,
        }
        return [f"{name.replace('__', '.')}={value!s}" for name, value in values.items()]

    def train(self, data: Path, work_dir: Path, *flags: str, **settings: Any) -> list[Any]:
        """Words of ``inlay train`` for a run with :meth:`options`."""
        words = ["train", "nanovlm_450m", "--work-dir", work_dir, *flags, "--cfg-options"]
        return [*words, *self.options(data, **settings)]

    def parts(self, data: Path, **settings: Any) -> Any:
        """The builder of the parts of such a run: its loaders, model and processor."""
        from inlay.app.assemble import Parts
        from inlay.app.train import checked_config

        return Parts(checked_config("nanovlm_450m", self.options(data, **settings)), 0)
