"""Published MGM folders: a language model and parts of its eyes in one set of weight files."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import GemmaConfig, GemmaForCausalLM, LlamaConfig, LlamaForCausalLM

from inlay.core.errors import ModelError, did_you_mean
from inlay.models.lm import default_device, keep_weights_as_they_are, quantization, torch_dtype
from inlay.models.mgm.convnext import ConvNeXtTower
from inlay.models.mgm.model import MGMModel
from inlay.models.mgm.vision import MGMVision
from inlay.models.mgm.weights import Tensors, cached, part_of, read_tensors
from inlay.models.projector import Projector, ProjectorConfig
from inlay.models.vision import load_visual_encoder

CLIP = "openai/clip-vit-large-patch14-336"
OPENCLIP = "laion/CLIP-convnext_large_d_320.laion2B-s29B-b131K-ft-soup"

FILES = ("model.safetensors", "pytorch_model.bin")
EYES = {
    "model.vision_tower.vision_tower.": "vision_tower.",
    "model.vision_tower_aux.": "vision_tower_aux.",
    "model.vlm_uni_": "vlm_uni_",
    "model.mm_projector.": "mm_projector.",
}
"""How the names of what is not the language model begin in MGM's files, and here."""

OPENCLIP_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
TRUNK = {"visual.trunk.stem.": "vision_stem.", "visual.trunk.stages.": "vision_stages."}
"""How the names of ConvNeXt's weights begin in OpenCLIP's files, and in ``ConvNeXtTower``."""


class _Llama(LlamaForCausalLM):
    _keys_to_ignore_on_load_unexpected = [re.escape(name) for name in EYES]


class _Gemma(GemmaForCausalLM):
    _keys_to_ignore_on_load_unexpected = [re.escape(name) for name in EYES]


LANGUAGE: dict[str, tuple[Any, Any]] = {
    "mgm": (LlamaConfig, _Llama),
    "mgm_gemma": (GemmaConfig, _Gemma),
}
"""``model_type`` of MGM's ``config.json``: config and class of the language model inside."""


def load_mgm(
    path: str,
    *,
    vision_tower: str = CLIP,
    vision_tower_aux: str = OPENCLIP,
    dtype: str | torch.dtype = "auto",
    bits: int | None = None,
    device: str | torch.device | None = None,
) -> MGMModel:
    """Load a published MGM (``YanweiLi/MGM-2B``, ``-7B``, ``-7B-HD``), frozen, in eval mode.

    The names of the weights are those of the modules in the original code. They were checked
    against that code alone: no published file was at hand.

    Args:
        path: folder or hub name.
        vision_tower: CLIP; its weights count where ``path`` holds none.
        vision_tower_aux: folder or hub name of OpenCLIP's ConvNeXt, likewise.
        dtype, bits, device: as ``load_causal_lm`` takes them; ``bits`` is for the language model.

    Raises:
        ModelError: a file is missing, or the weights do not fit ``config.json``.
    """
    config = _config(path)
    tensors = read_tensors(path, FILES, EYES)
    llm = _load_llm(path, config, dtype, bits)
    eyes = _eyes(path, config, tensors, vision_tower, vision_tower_aux)
    projector = _projector(config, llm.config.hidden_size)
    _fill(projector.model, part_of(tensors, "mm_projector."), f"{path}: mm_projector")
    device = device or default_device()
    if bits:  # quantised weights stand where they were loaded
        device = llm.get_input_embeddings().weight.device
    else:
        llm.to(device)
    width = llm.get_input_embeddings().weight.dtype
    return MGMModel(
        llm=llm, visual_encoder=eyes.to(device, width), projector=projector.to(device, width)
    )


def _config(path: str) -> dict[str, Any]:
    file = cached(path, "config.json")
    config = json.loads(Path(file).read_text(encoding="utf-8")) if file else {}
    kind = config.get("model_type")
    if kind not in LANGUAGE:
        raise ModelError(
            f"'{path}' is no MGM folder: expected a config.json with a model_type of "
            f"{' or '.join(LANGUAGE)}, found {kind!r}.{did_you_mean(str(kind), LANGUAGE)}"
        )
    return config


def _load_llm(path: str, config: dict[str, Any], dtype: str | torch.dtype, bits: int | None) -> Any:
    config_class, model_class = LANGUAGE[config["model_type"]]
    plain = {key: value for key, value in config.items() if key not in ("model_type", "auto_map")}
    kwargs: dict[str, Any] = {"dtype": torch_dtype(dtype)}
    if bits:
        kwargs["quantization_config"] = quantization(bits, kwargs["dtype"])
    try:
        llm, info = model_class.from_pretrained(
            path, config=config_class.from_dict(plain), output_loading_info=True, **kwargs
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise ModelError(f"cannot load the language model of '{path}': {error}") from error
    if missing := sorted(info["missing_keys"]):
        raise ModelError(
            f"'{path}' lacks {len(missing)} weights of its language model, first '{missing[0]}'"
        )
    keep_weights_as_they_are(llm)
    return llm


def _eyes(
    path: str, config: dict[str, Any], tensors: Tensors, vision_tower: str, vision_tower_aux: str
) -> MGMVision:
    eyes = MGMVision(
        vision_tower=_clip(vision_tower, part_of(tensors, "vision_tower.")),
        vision_tower_aux=_convnext(vision_tower_aux, part_of(tensors, "vision_tower_aux.")),
        image_grid=config.get("image_grid") or 1,
        image_global=bool(config.get("image_global")),
        select_layer=config.get("mm_vision_select_layer", -2),
    )
    for name, module in eyes.named_children():
        if name.startswith("vlm_uni_"):
            _fill(module, part_of(tensors, f"{name}."), f"{path}: {name}")
    return eyes


def _clip(path: str, own: Tensors) -> Any:
    """The base tower, with MGM's own weights where it has any."""
    tower = load_visual_encoder(path)
    if own:
        body = getattr(tower, "vision_model", tower)  # in releases that wrap it
        own = {name.removeprefix("vision_model."): tensor for name, tensor in own.items()}
        own.pop("embeddings.position_ids", None)  # a plain count that old releases saved
        _fill(body, own, "MGM's own vision_tower")
    return tower


def _convnext(path: str, own: Tensors) -> ConvNeXtTower:
    """A tower with MGM's own weights, or with those of OpenCLIP where it has none."""
    tensors = own or read_tensors(path, OPENCLIP_FILES, TRUNK)
    place = "MGM's own vision_tower_aux" if own else path
    try:
        tower = ConvNeXtTower.like(tensors)
    except (KeyError, IndexError) as error:
        raise ModelError(f"{place} is no whole ConvNeXt: it lacks {error}") from error
    _fill(tower, tensors, place)
    return tower


def _projector(config: dict[str, Any], width: int) -> Projector:
    kind = str(config.get("mm_projector_type"))
    layers = re.fullmatch(r"mlp(\d+)x_gelu", kind)
    if layers is None:
        raise ModelError(f"mm_projector_type must be like 'mlp2x_gelu', found '{kind}'")
    return Projector(ProjectorConfig(config["mm_hidden_size"], width, depth=int(layers[1])))


def _fill(module: nn.Module, tensors: Tensors, place: str) -> None:
    try:
        module.load_state_dict(tensors)
    except RuntimeError as error:
        raise ModelError(f"{place}: the weights do not fit: {error}") from error
