"""Held-out pictures with their masks, true ones left, those of the model in training right."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from inlay.chat.overlay import draw, enlarged, palette
from inlay.data.vision.files import open_image

if TYPE_CHECKING:
    from PIL.Image import Image

GAP = 8  # px


def draw_samples(runner: Any, count: int) -> list[tuple[str, Image]]:
    """Return caption and picture of the first ``count`` validation (or else training) samples.

    Args:
        runner: of a grounding run; its model stays in the mode that it is in.
    """
    loader = runner.val_dataloader or runner.train_dataloader
    dataset, model = loader.dataset, runner.model
    was_training = model.training
    model.eval()
    try:
        return [_draw(dataset, model, number) for number in range(min(count, len(dataset)))]
    finally:
        model.train(was_training)


def _draw(dataset: Any, model: Any, number: int) -> tuple[str, Image]:
    item = dataset.item(number, 0)
    batch = dataset.collate([item]).to(model.device)
    # Not inference_mode: what is computed here may be kept in the cache, and trained on.
    with torch.no_grad():
        drawn = model.predict(**batch.inputs)[0] > 0
    sample = dataset.sample(number)
    image = open_image(sample.images[0])
    phrases = _phrases(item.tokens, len(item.masks), dataset.builder.tokenizer)
    sides = [_side(image, masks, phrases) for masks in (item.masks > 0, drawn.cpu().numpy())]
    return "; ".join(phrases), _beside(*sides)


def _phrases(tokens: Any, count: int, tokenizer: Any) -> list[str]:
    """The words that name each mask."""
    ids = tokens.ids[tokens.caption_rows]
    named = [ids[tokens.mask_ids == number].tolist() for number in range(count)]
    return [tokenizer.decode(words).strip() for words in named]


def _side(image: Image, masks: np.ndarray, phrases: list[str]) -> Image:
    large, bigger = enlarged(image, masks)
    return draw(large, bigger, palette(len(phrases)), phrases)


def _beside(left: Image, right: Image) -> Image:
    from PIL import Image as pil

    size = (left.width + GAP + right.width, max(left.height, right.height))
    both = pil.new("RGB", size, "white")
    both.paste(left, (0, 0))
    both.paste(right, (left.width + GAP, 0))
    return both
