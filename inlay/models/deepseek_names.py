"""DeepSeek-VL as its authors publish it, loaded into transformers' classes.

The published folders (``deepseek-ai/deepseek-vl-1.3b-chat``, ``-7b-chat``; ``model_type``
``multi_modality``) name their weights after the modules of the authors' code: a SigLIP as timm
writes it, in the 7B model beside a SAM image encoder (SAM-B and two convolutions), a projector
("aligner") and a Llama. The 7B model is ``DeepseekVLHybrid`` in transformers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from inlay.core.errors import ModelError
from inlay.core.io import read_json
from inlay.models.lm import quantization, torch_dtype

Tensors = dict[str, torch.Tensor]

MODEL_TYPE = "multi_modality"
IMAGE_TOKEN = "<image_placeholder>"
SIGLIP_HEADS = 16
"""Of every SigLIP in the authors' table (large/16 and so400m/14): weights do not tell it."""

LOW = r"vision_model\.(?:vision_tower_low\.)?vision_tower\."
HIGH = r"vision_model\.vision_tower_high\.vision_tower\."
SIGLIP = "model.vision_model.vision_model."
SAM = "model.high_res_vision_model.vision_encoder."
NAMES = {
    r"language_model\.model\.": "model.language_model.",
    r"language_model\.lm_head\.": "lm_head.",
    LOW + r"pos_embed$": SIGLIP + "embeddings.position_embedding.weight",
    LOW + r"patch_embed\.proj\.": SIGLIP + "embeddings.patch_embedding.",
    LOW + r"blocks\.(\d+)\.norm([12])\.": SIGLIP + r"encoder.layers.\1.layer_norm\2.",
    LOW + r"blocks\.(\d+)\.attn\.qkv\.": SIGLIP + r"encoder.layers.\1.self_attn.qkv.",
    LOW + r"blocks\.(\d+)\.attn\.proj\.": SIGLIP + r"encoder.layers.\1.self_attn.out_proj.",
    LOW + r"blocks\.(\d+)\.mlp\.": SIGLIP + r"encoder.layers.\1.mlp.",
    LOW + r"norm\.": SIGLIP + "post_layernorm.",
    HIGH + r"pos_embed$": SAM + "pos_embed",
    HIGH + r"patch_embed\.proj\.": SAM + "patch_embed.projection.",
    HIGH + r"blocks\.(\d+)\.norm([12])\.": SAM + r"layers.\1.layer_norm\2.",
    HIGH + r"blocks\.(\d+)\.": SAM + r"layers.\1.",
    HIGH + r"neck\.0\.": SAM + "neck.conv1.",
    HIGH + r"neck\.1\.": SAM + "neck.layer_norm1.",
    HIGH + r"neck\.2\.": SAM + "neck.conv2.",
    HIGH + r"neck\.3\.": SAM + "neck.layer_norm2.",
    HIGH + r"neck_hd\.0\.": "model.high_res_vision_neck.conv1.",
    HIGH + r"neck_hd\.1\.": "model.high_res_vision_neck.layer_norm1.",
    HIGH + r"neck_hd\.2\.": "model.high_res_vision_neck.conv2.",
    HIGH + r"neck_hd\.3\.": "model.high_res_vision_neck.layer_norm2.",
    HIGH + r"downsamples\.0\.": "model.high_res_vision_proj.conv1.",
    HIGH + r"downsamples\.1\.": "model.high_res_vision_proj.conv2.",
    HIGH + r"hd_alpha_downsamples$": "model.high_res_vision_alpha",
    r"aligner\.high_up_proj\.": "model.aligner.high_res_vision_proj.",
    r"aligner\.low_up_proj\.": "model.aligner.vision_proj.",
    r"aligner\.layers\.1\.": "model.aligner.proj.",
    r"aligner\.layers\.0\.": "model.aligner.linear1.",
    r"aligner\.layers\.2\.": "model.aligner.linear2.",
}
"""How names begin there, as patterns, and in transformers."""

UNUSED = re.compile(
    LOW + r"attn_pool\.|vision_model\.(?:high|low)_layer_norm\.|.*\.rotary_emb\.inv_freq$"
)
"""Weights that the authors' code has and never computes with."""


def is_published(path: str | Path) -> bool:
    """Tell whether a folder or hub name holds DeepSeek-VL in the layout of its authors."""
    from transformers.utils import cached_file

    try:
        file = cached_file(str(path), "config.json")
        return file is not None and read_json(file).get("model_type") == MODEL_TYPE
    except OSError:
        return False


def load_published(path: str, *, dtype: str | torch.dtype = "auto", bits: int | None = None) -> Any:
    """Return a ``DeepseekVL`` or ``DeepseekVLHybrid`` model ``ForConditionalGeneration``.

    Args:
        path: folder or hub name with ``config.json``, ``tokenizer.json`` and safetensors.
        dtype: of the weights; ``"auto"``: as they are stored.
        bits: 4 or 8 to quantise them with bitsandbytes.

    Raises:
        ModelError: a file is missing or damaged, or the weights are not those of a DeepSeek-VL.
    """
    import transformers

    stored = _read_weights(path)
    dtype = torch_dtype(dtype)
    if dtype == "auto":
        dtype = next(iter(stored.values())).dtype
    kwargs: dict[str, Any] = {"dtype": dtype}
    if bits:
        kwargs["quantization_config"] = quantization(bits, dtype)
    tensors = transformers_names(stored, path)
    config = transformers_config(_config(path), tensors, _image_token_id(path))
    kind = type(config).__name__.replace("Config", "ForConditionalGeneration")
    try:
        model, found = getattr(transformers, kind).from_pretrained(
            None, config=config, state_dict=tensors, output_loading_info=True, **kwargs
        )
    except RuntimeError as error:
        raise ModelError(f"'{path}' does not fit its own config.json: {error}") from error
    if wrong := [*found["missing_keys"], *found["unexpected_keys"]]:
        raise ModelError(
            f"'{path}' does not hold the weights of a DeepSeek-VL: missing or unknown are "
            f"{sorted(wrong)[:5]} (in transformers' names)"
        )
    return model


def transformers_names(stored: Mapping[str, torch.Tensor], path: str = "") -> Tensors:
    """Return published weights by the names that they have in transformers; unused ones go.

    Raises:
        ModelError: a weight that the authors' DeepSeek-VL does not have.
    """
    renamed: Tensors = {}
    for name, tensor in stored.items():
        if UNUSED.match(name):
            continue
        new = next((n for p in NAMES if (n := re.sub("^" + p, NAMES[p], name)) != name), None)
        if new is None:
            raise ModelError(
                f"'{path}' is no DeepSeek-VL: it holds '{name}', which that model does not have"
            )
        if ".self_attn.qkv." in new:
            for key, part in zip("qkv", tensor.chunk(3), strict=True):
                renamed[new.replace(".qkv.", f".{key}_proj.")] = part
        else:
            renamed[new] = tensor[0] if new.endswith("position_embedding.weight") else tensor
    return renamed


def transformers_config(
    published: Mapping[str, Any], tensors: Mapping[str, torch.Tensor], image_token_id: int
) -> Any:
    """Return the config of a published model; the vision encoders' sizes are read off the weights.

    Args:
        published: its ``config.json``.
        tensors: its weights by transformers' names.
        image_token_id: id of ``<image_placeholder>``.

    Raises:
        ModelError: weights that tell the sizes are missing.
    """
    from transformers import DeepseekVLConfig, DeepseekVLHybridConfig

    # The tokenizer tells where texts begin and end; Llama's own defaults would be wrong here.
    language = {"bos_token_id": None, "eos_token_id": None, **published.get("language_config", {})}
    for key in ("torch_dtype", "dtype"):
        language.pop(key, None)
    tied = language.setdefault("tie_word_embeddings", False)
    common = {
        "text_config": {**language, "model_type": "llama"},
        "image_token_id": image_token_id,
        "tie_word_embeddings": tied,
    }
    try:
        common["vision_config"] = _siglip_config(tensors)
        if not any(name.startswith(SAM) for name in tensors):
            return DeepseekVLConfig(**common)
        return DeepseekVLHybridConfig(**common, high_res_vision_config=_sam_config(tensors))
    except KeyError as error:
        raise ModelError(f"no DeepSeek-VL: its vision encoder lacks the weight {error}") from error


def _siglip_config(tensors: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    patches, width = tensors[SIGLIP + "embeddings.position_embedding.weight"].shape
    patch_size = tensors[SIGLIP + "embeddings.patch_embedding.weight"].shape[-1]
    return {
        "model_type": "siglip_vision_model",
        "hidden_size": width,
        "intermediate_size": tensors[SIGLIP + "encoder.layers.0.mlp.fc1.weight"].shape[0],
        "num_hidden_layers": _count_layers(tensors, SIGLIP + "encoder.layers."),
        "num_attention_heads": SIGLIP_HEADS,
        "image_size": round(patches**0.5) * patch_size,
        "patch_size": patch_size,
        "hidden_act": "gelu",  # not the tanh form, which transformers' SigLIP takes by default
        "layer_norm_eps": 1e-6,
        "vision_use_head": False,
    }


def _sam_config(tensors: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    _, side, _, width = tensors[SAM + "pos_embed"].shape
    patch_size = tensors[SAM + "patch_embed.projection.weight"].shape[-1]
    layers = range(_count_layers(tensors, SAM + "layers."))
    # A layer has 2n - 1 relative positions for n places a side: those of a window, or all.
    reach = [(len(tensors[f"{SAM}layers.{n}.attn.rel_pos_h"]) + 1) // 2 for n in layers]
    return {
        "model_type": "sam_vision_model",
        "hidden_size": width,
        "output_channels": tensors[SAM + "neck.conv1.weight"].shape[0],
        "num_hidden_layers": len(layers),
        "num_attention_heads": width // tensors[SAM + "layers.0.attn.rel_pos_h"].shape[1],
        "image_size": side * patch_size,
        "patch_size": patch_size,
        "mlp_dim": tensors[SAM + "layers.0.mlp.lin1.weight"].shape[0],
        "window_size": min(reach),
        "global_attn_indexes": [n for n in layers if reach[n] == side],
    }


def _count_layers(tensors: Mapping[str, torch.Tensor], prefix: str) -> int:
    return len({n[len(prefix) :].partition(".")[0] for n in tensors if n.startswith(prefix)})


def _config(path: str) -> dict[str, Any]:
    return read_json(_file(path, "config.json"))


def _image_token_id(path: str) -> int:
    from tokenizers import Tokenizer

    found = Tokenizer.from_file(_file(path, "tokenizer.json")).token_to_id(IMAGE_TOKEN)
    if found is None:
        raise ModelError(f"the tokenizer.json of '{path}' has no token '{IMAGE_TOKEN}'")
    return found


def _file(path: str, name: str) -> str:
    from transformers.utils import cached_file

    try:
        return str(cached_file(path, name))
    except OSError as error:
        raise ModelError(f"cannot read {name} of '{path}': {error}") from error


def _read_weights(path: str) -> Tensors:
    """Map the weights into memory: one safetensors file, or shards with their index."""
    from transformers.utils import cached_file

    try:
        index = cached_file(
            path, "model.safetensors.index.json", _raise_exceptions_for_missing_entries=False
        )
    except OSError as error:
        raise ModelError(f"cannot read the weights of '{path}': {error}") from error
    names = set(read_json(index)["weight_map"].values()) if index else {"model.safetensors"}
    tensors: Tensors = {}
    for name in sorted(names):
        file = _file(path, name)
        try:
            with safe_open(file, framework="pt") as shard:
                tensors |= {key: shard.get_tensor(key) for key in shard.keys()}  # noqa: SIM118
        except SafetensorError as error:
            raise ModelError(f"{file} is damaged: {error}") from error
    return tensors
