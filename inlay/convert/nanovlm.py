"""Export a model from backbones in nanoVLM's layout."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from inlay.convert.folder import staged
from inlay.convert.merge import ROUNDING
from inlay.convert.record import write_facts
from inlay.convert.see import llava_logits, picture_probe
from inlay.convert.to_hf import cast_weights, check_finite, prepare_tokenizer, write_card
from inlay.core.errors import ModelError
from inlay.core.types import ImageProcessor
from inlay.data.vision.load import save_image_processor
from inlay.models.llava import LLaVAModel
from inlay.models.nanovlm import to_nanovlm


def export_nanovlm(
    model: LLaVAModel,
    tokenizer: Any,
    image_processor: ImageProcessor,
    out_dir: str | Path,
    *,
    dtype: str | None = None,
    card: Mapping[str, Any] | None = None,
    template: str | Mapping[str, Any] | None = None,
) -> Path:
    """Write ``config.json`` and ``model.safetensors`` as nanoVLM publishes them, with the tokenizer
    and our image processor beside them.

    nanoVLM shows pictures to its encoder without normalisation: that of our training is folded into
    the encoder's first layer.

    Args:
        model: without adapters; its weights are changed in place.

    Raises:
        ModelError: a model or an image processor that nanoVLM's layout cannot express.
    """
    from safetensors.torch import save_file

    if not hasattr(image_processor, "tile_size"):
        raise ModelError("nanoVLM's layout is for tiled pictures (TiledImageProcessor)")
    cast = getattr(torch, dtype) if dtype else None
    tokenizer = copy.deepcopy(tokenizer)
    image_processor = fold_normalisation(model.visual_encoder, image_processor, tokenizer)
    part: nn.Module
    for part in (model.llm, model.visual_encoder, model.projector):
        cast_weights(part, cast)
    sizes, tensors = to_nanovlm(model)
    found = prepare_tokenizer(tokenizer, template)
    with staged(out_dir) as folder:
        config = {**sizes, **_settings(image_processor, tokenizer, sizes)}
        text = json.dumps(config, indent=4, ensure_ascii=False)
        (folder / "config.json").write_text(text + "\n", encoding="utf-8")
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})
        tokenizer.save_pretrained(folder)
        save_image_processor(image_processor, folder)
        check_finite(model)
        token = image_processor.image_token_id
        probe = picture_probe(image_processor, tokenizer, sizes["lm_vocab_size"])
        facts: dict[str, Any] = {
            "kind": "nanovlm",
            "bases": {},
            "quantization": None,
            "image_token_id": token,
            "device": model.device.type,
        }
        logits = llava_logits(model, probe, token)
        if cast in (torch.float16, torch.bfloat16):  # read back, the weights compute in float32
            facts["tolerance"] = ROUNDING[cast] * max(1.0, float(logits.abs().max()))
        write_facts(folder, facts, tokenizer, found, probe, logits)
        write_card(folder, Path(out_dir).name, "parts", None, card)
    return Path(out_dir)


def fold_normalisation(encoder: Any, processor: Any, tokenizer: Any) -> ImageProcessor:
    """Let the encoder's first layer normalise pixels; return the processor that leaves it to it.

    ``W ((x - m) / s) + b = (W / s) x + (b - sum(W m / s))``: exact, since no patch is padded.
    """
    if processor.image_mean is None:
        return processor
    conv = encoder.embeddings.patch_embedding
    mean = torch.tensor(processor.image_mean).view(1, -1, 1, 1)
    std = torch.tensor(processor.image_std).view(1, -1, 1, 1)
    with torch.no_grad():
        scaled = conv.weight.double() / std.to(conv.weight.device)
        shift = (scaled * mean.to(scaled.device)).sum((1, 2, 3))
        conv.weight.copy_(scaled)
        conv.bias.copy_(conv.bias.double() - shift)
    settings = {**processor.settings(), "image_mean": None, "image_std": None}
    return type(processor)(tokenizer, **settings)


def _settings(processor: Any, tokenizer: Any, sizes: dict[str, Any]) -> dict[str, Any]:
    """What nanoVLM's ``VLMConfig`` says of tokenizer and pictures."""
    side = range(1, 9)
    extra = {"image_token": processor.image_token}
    if processor.global_view:
        extra["global_image_token"] = processor.global_token
    extra.update({f"r{i}c{j}": f"<row_{i}_col_{j}>" for i in side for j in side})
    return {
        "lm_base_vocab_size": sizes["lm_vocab_size"] - len(extra),
        "extra_token_amount": len(extra),
        "lm_attn_scaling": 1.0,
        "lm_max_length": sizes["lm_max_position_embeddings"],
        "lm_use_tokens": False,
        "lm_tokenizer": sizes["lm_model_type"],
        "lm_chat_template": tokenizer.chat_template,
        "max_img_size": processor.max_image_size,
        "resize_to_max_side_len": processor.resize_to_max,
        "vlm_extra_tokens": extra,
        "vlm_load_backbone_weights": False,
        "vlm_checkpoint_path": "checkpoints",
        "hf_repo_name": "nanoVLM",
    }
