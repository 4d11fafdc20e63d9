"""The probe of a model with eyes: tokens around one picture that every machine draws alike."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from inlay.convert.probe import probe_ids, probe_images
from inlay.core.types import ImageProcessor
from inlay.models.llava import LLaVAModel
from inlay.models.picture_row import PictureRow
from inlay.models.vlm import TYPE_IDS, VisionFinetune

SIZE = (96, 64)
"""Width and height of the probe's picture in px: no square, and small."""


@dataclass(frozen=True)
class Probe:
    """What a model is shown.

    Attributes:
        ids: token ids, the picture's among them.
        images: the model's other inputs, as ``probe.probe_images`` reads them.
    """

    ids: list[int]
    images: dict[str, Any]


def picture_probe(processor: ImageProcessor, tokenizer: Any, vocab_size: int) -> Probe:
    """Return the probe for a ``LLaVAModel``: half of the tokens, a picture, the other half."""
    added = set(tokenizer.get_added_vocab().values())
    ids = probe_ids(vocab_size)
    for at, token in enumerate(ids):
        while token in added:  # markers of pictures and videos have a meaning of their own
            token = (token + 1) % vocab_size
        ids[at] = token
    half = len(ids) // 2
    pixels = processor.pixels(_picture())
    tensors = {name: torch.from_numpy(np.asarray(array)) for name, array in pixels.items()}
    ids[half:half] = processor.plan(*SIZE).ids
    return Probe(ids, {name: _described(tensor) for name, tensor in tensors.items()})


def native_probe(model: VisionFinetune, processor: ImageProcessor, tokenizer: Any) -> Probe:
    """Return the probe as the transformers model inside ``model`` takes it."""
    vocab_size = model.base.config.get_text_config().vocab_size
    probe = picture_probe(processor, tokenizer, vocab_size)
    row_ids = torch.tensor([probe.ids])
    at = (row_ids[0] == processor.image_token_id).nonzero(as_tuple=True)[0]
    starts = torch.tensor([0, len(probe.ids)])
    row = PictureRow(row_ids, starts, probe_images(probe.images), at)
    inputs = row.pixels(model.family, torch.float32)
    takes = inspect.signature(model.base.forward).parameters
    inputs |= {name: row.is_image.long() for name in TYPE_IDS if name in takes}
    return Probe(probe.ids, {name: _described(tensor) for name, tensor in inputs.items()})


def llava_logits(model: LLaVAModel, probe: Probe, image_token_id: int) -> torch.Tensor:
    """Logits of a ``LLaVAModel`` for its probe, float32 ``[N, vocabulary]``, by the attention that
    every model has."""
    parts = (model.llm, model.visual_encoder)
    before = [part.config._attn_implementation for part in parts]
    was_training = model.training
    for part in parts:
        part.set_attn_implementation("eager")
    try:
        with torch.no_grad():
            model.eval()
            ids = torch.tensor([probe.ids], device=model.device)
            at = (ids[0] == image_token_id).nonzero(as_tuple=True)[0]
            images = {k: v.to(model.device) for k, v in probe_images(probe.images).items()}
            embeds = model.embed(ids, images, at)
            return model.llm(inputs_embeds=embeds, use_cache=False).logits[0].float().cpu()
    finally:
        model.train(was_training)
        for part, attention in zip(parts, before, strict=True):
            part.set_attn_implementation(attention)


def _picture() -> Any:
    from PIL import Image

    return Image.new("RGB", SIZE)


def _described(tensor: torch.Tensor) -> dict[str, Any]:
    """A tensor in few words: pixels are drawn anew, the rest is spelled out."""
    told: dict[str, Any] = {
        "shape": list(tensor.shape),
        "dtype": str(tensor.dtype).removeprefix("torch."),
    }
    if tensor.is_floating_point():
        return told
    flat = tensor.flatten().tolist()
    return {**told, "fill": flat[0]} if len(set(flat)) == 1 else {**told, "values": flat}
