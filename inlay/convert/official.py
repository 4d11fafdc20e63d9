"""Export a LLaVA model in the layout of its authors' code (haotian-liu/LLaVA), and read it back."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import save_torch_state_dict

from inlay.convert.folder import staged
from inlay.convert.llava import OTHERS
from inlay.convert.merge import ROUNDING
from inlay.convert.parts import hf_image_processor
from inlay.convert.record import write_facts
from inlay.convert.see import llava_logits, picture_probe
from inlay.convert.speech import Speech
from inlay.convert.to_hf import (
    cast_weights,
    check_finite,
    portable_name,
    prepare_tokenizer,
    write_card,
    write_generation_config,
)
from inlay.core.errors import ModelError
from inlay.core.types import ImageProcessor
from inlay.data.vision.square import SquareImageProcessor
from inlay.models.llava import LLaVAModel
from inlay.models.projector import build_projector
from inlay.models.vision import load_visual_encoder

KIND = "official"
PROJECTOR = "model.mm_projector."
TOWER = "model.vision_tower.vision_tower.vision_model."


def export_official(
    model: LLaVAModel,
    tokenizer: Any,
    image_processor: ImageProcessor,
    out_dir: str | Path,
    *,
    with_encoder: bool,
    dtype: str | None = "float16",
    max_shard_size: str = "2GB",
    card: Mapping[str, Any] | None = None,
    template: str | Mapping[str, Any] | None = None,
) -> Path:
    """Write a ``LlavaLlamaForCausalLM``: a Llama's weights, the projector's, and the vision
    encoder's where it was trained; else the config names it.

    Args:
        model: without adapters and quantised weights; cast in place.
        with_encoder: the vision encoder was trained.
        dtype, max_shard_size, card, template: see ``to_hf.export``.

    Raises:
        ModelError: the layout cannot express the model; the formats that can are named.
    """
    _check(model, image_processor)
    tokenizer = copy.deepcopy(tokenizer)
    found = prepare_tokenizer(tokenizer, template)
    cast = getattr(torch, dtype) if dtype else None
    parts: list[Any] = [model.llm, model.projector, *([model.visual_encoder] * with_encoder)]
    for part in parts:
        cast_weights(part, cast)
    check_finite(model)
    with staged(out_dir) as folder:
        config = _config(model, image_processor, with_encoder)
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        tensors = _tensors(model, with_encoder)
        save_torch_state_dict(tensors, folder, max_shard_size=max_shard_size)
        write_generation_config(model.llm, found.stop_ids, folder)
        tokenizer.save_pretrained(folder)
        hf_image_processor(image_processor).save_pretrained(folder)
        _write_record(folder, model, tokenizer, image_processor, found, with_encoder)
        write_card(folder, Path(out_dir).name, "parts", portable_name(_name(model.llm)), card)
    return Path(out_dir)


def load_official(folder: str | Path, visual_encoder: str | None = None) -> LLaVAModel:
    """Read a ``LlavaLlamaForCausalLM`` folder, in the dtype of its weights.

    Args:
        visual_encoder: in place of the one that the config names.

    Raises:
        ModelError: a file is missing, or weights and config do not fit each other.
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = Path(folder)
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        tensors = _read(folder)
        kept = {k: v for k, v in config.items() if not k.startswith("mm_") and k != "model_type"}
        llm: Any = LlamaForCausalLM(LlamaConfig.from_dict(kept))
        encoder = load_visual_encoder(visual_encoder or config["mm_vision_tower"], dtype="auto")
        projector = build_projector(
            "mlp",
            config["mm_hidden_size"],
            config["hidden_size"],
            depth=int(config["mm_projector_type"].removeprefix("mlp").partition("x")[0]),
            visual_select_layer=config["mm_vision_select_layer"],
        )
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(
            f"cannot read a LLaVA of its authors' layout from '{folder}' "
            f"({type(error).__name__}: {error})"
        ) from error
    dtype = tensors[f"{PROJECTOR}0.weight"].dtype
    language = {k: v for k, v in tensors.items() if not k.startswith((PROJECTOR, TOWER))}
    _fill(llm.to(dtype), language, folder)
    own = {k.removeprefix(PROJECTOR): v for k, v in tensors.items() if k.startswith(PROJECTOR)}
    _fill(projector.model.to(dtype), own, folder)
    tower = {k.removeprefix(TOWER): v for k, v in tensors.items() if k.startswith(TOWER)}
    if tower:
        _fill(getattr(encoder, "vision_model", encoder).to(dtype), tower, folder)
    return LLaVAModel(
        llm,
        encoder,
        projector=projector,
        visual_select_layer=config["mm_vision_select_layer"],
        use_activation_checkpointing=False,
    ).eval()


def _check(model: LLaVAModel, processor: ImageProcessor) -> None:
    config = model.projector.config
    needed = {
        "a Llama as language model": model.llm.config.model_type == "llama",
        "a CLIP vision encoder": model.visual_encoder.config.model_type == "clip_vision_model",
        "a projector of linear layers with biases and GELU between them": config.kind == "mlp"
        and config.hidden_act == "gelu"
        and config.bias
        and config.pixel_shuffle_factor == 1,
        "a hidden state before the last (visual_select_layer)": model.visual_select_layer
        is not None,
        "each picture once, not in tiles": isinstance(processor, SquareImageProcessor),
    }
    if lacking := [what for what, holds in needed.items() if not holds]:
        raise ModelError(f"the authors' layout of LLaVA needs {'; '.join(lacking)}. {OTHERS}")


def _config(model: LLaVAModel, processor: ImageProcessor, with_encoder: bool) -> dict[str, Any]:
    """Llama's config as the transformers of that code has it, and what LLaVA adds."""
    fields = json.loads(model.llm.config.to_json_string(use_diff=False))
    rope = fields.pop("rope_parameters")
    theta, kind = rope.pop("rope_theta"), rope.pop("rope_type")
    fields.pop("_name_or_path", None)
    return {
        **fields,
        "rope_theta": theta,
        "rope_scaling": None if kind == "default" else {"type": kind, **rope},
        "torch_dtype": str(model.llm.get_input_embeddings().weight.dtype).removeprefix("torch."),
        "architectures": ["LlavaLlamaForCausalLM"],
        "model_type": "llava_llama",
        "use_cache": True,
        "image_aspect_ratio": "pad" if getattr(processor, "pad_to_square", False) else None,
        "mm_hidden_size": model.visual_encoder.config.hidden_size,
        "mm_projector_type": f"mlp{model.projector.config.depth}x_gelu",
        "mm_use_im_patch_token": False,
        "mm_use_im_start_end": False,
        "mm_vision_select_feature": "patch",
        "mm_vision_select_layer": model.visual_select_layer,
        "mm_vision_tower": portable_name(_name(model.visual_encoder)),
        "unfreeze_mm_vision_tower": with_encoder,
        "use_mm_proj": True,
    }


def _tensors(model: LLaVAModel, with_encoder: bool) -> dict[str, torch.Tensor]:
    tensors = dict(model.llm.state_dict())
    if model.llm.config.tie_word_embeddings:  # files hold a tensor once, by this name
        tensors.pop("lm_head.weight", None)
    for name, tensor in model.projector.model.state_dict().items():
        tensors[PROJECTOR + name] = tensor
    if with_encoder:
        for name, tensor in model.visual_encoder.state_dict().items():
            tensors[TOWER + name.removeprefix("vision_model.")] = tensor
    return tensors


def _write_record(
    folder: Path,
    model: LLaVAModel,
    tokenizer: Any,
    processor: ImageProcessor,
    speech: Speech,
    with_encoder: bool,
) -> None:
    token = processor.image_token_id
    probe = picture_probe(processor, tokenizer, model.llm.config.vocab_size)
    logits = llava_logits(model, probe, token)
    # The encoder may be loaded in another precision than it was trained beside.
    rounding = max(ROUNDING[p.dtype] for p in model.parameters() if p.dtype in ROUNDING)
    facts = {
        "kind": KIND,
        "bases": {"visual_encoder": portable_name(_name(model.visual_encoder))},
        "tolerance": 0.0 if with_encoder else rounding * max(1.0, float(logits.abs().max())),
        "quantization": None,
        "image_token_id": token,
        "device": model.device.type,
    }
    write_facts(folder, facts, tokenizer, speech, probe, logits)


def _name(part: Any) -> str:
    return part.config._name_or_path


def _read(folder: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    tensors: dict[str, torch.Tensor] = {}
    for file in sorted(folder.glob("*.safetensors")):
        tensors |= load_file(file)
    return tensors


def _fill(module: Any, tensors: dict[str, torch.Tensor], folder: Path) -> None:
    """Load all weights; a tied output layer need not be there."""
    try:
        missing, unknown = module.load_state_dict(tensors, strict=False)
    except RuntimeError as error:
        raise ModelError(f"'{folder}' does not fit its own config.json: {error}") from error
    if getattr(getattr(module, "config", None), "tie_word_embeddings", False):
        missing = [name for name in missing if name != "lm_head.weight"]
    if missing or unknown:
        raise ModelError(
            f"'{folder}' does not hold the weights that its config.json describes: missing "
            f"{missing[:3]}, unknown {unknown[:3]}"
        )
