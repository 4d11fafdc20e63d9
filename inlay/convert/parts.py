"""Export a LLaVA model in parts, as XTuner lays them out."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from inlay.convert.folder import staged
from inlay.convert.merge import ROUNDING
from inlay.convert.record import quantization_of, write_facts
from inlay.convert.see import llava_logits, picture_probe
from inlay.convert.speech import Speech
from inlay.convert.to_hf import (
    cast_weights,
    check_finite,
    portable_name,
    prepare_tokenizer,
    write_adapter,
    write_card,
    write_generation_config,
    write_model,
)
from inlay.core.errors import ModelError
from inlay.core.types import ImageProcessor
from inlay.data.vision.load import save_image_processor
from inlay.models.llava import LLaVAModel
from inlay.models.projector import save_projector


def export_parts(
    model: LLaVAModel,
    tokenizer: Any,
    image_processor: ImageProcessor,
    out_dir: str | Path,
    *,
    whole: bool = False,
    dtype: str | None = "float16",
    max_shard_size: str = "2GB",
    card: Mapping[str, Any] | None = None,
    template: str | Mapping[str, Any] | None = None,
) -> Path:
    """Write the parts that were trained: the language model in the root or ``llm_adapter/``,
    ``visual_encoder/`` or ``visual_encoder_adapter/``, ``projector/``; and the tokenizer.

    Args:
        model: its weights are cast in place. The projector keeps its dtype.
        whole: write every part, trained or not; adapters must have been merged.
        dtype, max_shard_size, card, template: see ``to_hf.export``.

    Raises:
        ModelError: the target holds other files, a weight is not finite, or ``whole`` of a model
            with adapters or quantised weights.
    """
    llm, encoder = model.llm, model.visual_encoder
    if whole and any(hasattr(p, "peft_config") or quantization_of(p) for p in (llm, encoder)):
        raise ModelError("a whole model has neither adapters nor quantised weights: merge it first")
    tokenizer = copy.deepcopy(tokenizer)
    found = prepare_tokenizer(tokenizer, template)
    cast = getattr(torch, dtype) if dtype else None
    bases: dict[str, str | None] = {}
    with staged(out_dir) as folder:
        bases["llm"] = _write_part(llm, folder, folder / "llm_adapter", whole, cast, max_shard_size)
        if bases["llm"] is None:
            write_generation_config(llm, found.stop_ids, folder)
        own, on_base = folder / "visual_encoder", folder / "visual_encoder_adapter"
        bases["visual_encoder"] = _write_part(encoder, own, on_base, whole, cast, max_shard_size)
        if bases["visual_encoder"] is None:
            hf_image_processor(image_processor).save_pretrained(own)
        save_projector(model.projector, folder / "projector")
        save_image_processor(image_processor, folder)
        tokenizer.save_pretrained(folder)
        check_finite(model)
        _write_record(folder, model, tokenizer, image_processor, bases, found)
        write_card(folder, Path(out_dir).name, "parts", bases["llm"], card)
    return Path(out_dir)


def _write_part(
    part: Any,
    folder: Path,
    adapter_folder: Path,
    whole: bool,
    dtype: torch.dtype | None,
    max_shard_size: str,
) -> str | None:
    """Write one part, or its adapter, if it was trained; return the base that it needs."""
    if hasattr(part, "peft_config"):
        return write_adapter(part, adapter_folder, dtype, None)
    if not whole and not any(p.requires_grad for p in part.parameters()):
        return portable_name(part.config._name_or_path)
    cast_weights(part, dtype)
    write_model(part, folder, max_shard_size)
    return None


def _write_record(
    folder: Path,
    model: LLaVAModel,
    tokenizer: Any,
    image_processor: ImageProcessor,
    bases: dict[str, str | None],
    speech: Speech,
) -> None:
    token = image_processor.image_token_id
    probe = picture_probe(image_processor, tokenizer, model.llm.config.get_text_config().vocab_size)
    logits = llava_logits(model, probe, token)
    rounding = max(ROUNDING[p.dtype] for p in model.parameters() if p.dtype in ROUNDING)
    facts = {
        "kind": "parts",
        "bases": bases,
        # Base models may be loaded in another precision than they were trained in.
        "tolerance": rounding * max(1.0, float(logits.abs().max())) if any(bases.values()) else 0.0,
        "quantization": quantization_of(model.llm),
        # What was quantised in one precision is not what is quantised in another.
        "llm_dtype": str(model.llm.config.dtype or "auto").removeprefix("torch."),
        "image_token_id": token,
        "device": model.device.type,
    }
    write_facts(folder, facts, tokenizer, speech, probe, logits)


def hf_image_processor(processor: ImageProcessor) -> Any:
    """The steps of a square or tiled processor for one view, as an image processor of transformers.

    LLaVA's own is the one that can pad to a square.
    """
    from transformers import LlavaImageProcessorPil

    view = getattr(processor, "view", None)
    if view is None:  # one tile
        side = processor.tile_size  # type: ignore[attr-defined]
        size, crop, resample = {"height": side, "width": side}, None, 3
        mean, std = processor.image_mean, processor.image_std  # type: ignore[attr-defined]
    else:
        size = crop = {"height": view.height, "width": view.width}
        if view.shortest_edge is not None:
            size = {"shortest_edge": view.shortest_edge}
        resample, mean, std = view.resample, view.mean, view.std
    crops = "shortest_edge" in size
    return LlavaImageProcessorPil(
        size=size,
        do_center_crop=crops,
        crop_size=crop if crops else None,
        resample=resample,
        do_normalize=mean is not None,
        image_mean=list(mean) if mean is not None else None,
        image_std=list(std) if std is not None else None,
        do_pad=getattr(processor, "pad_to_square", False),
    )
