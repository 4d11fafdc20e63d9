"""nanoVLM's folders: ``config.json`` (its ``VLMConfig``) and one ``model.safetensors``."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from inlay.core.errors import ModelError
from inlay.models.llava import LLaVAModel
from inlay.models.projector import build_projector

Tensors = dict[str, torch.Tensor]

LANGUAGE = {
    "decoder.token_embedding.": "model.embed_tokens.",
    "decoder.head.": "lm_head.",
    "decoder.norm.": "model.norm.",
    "decoder.blocks.#.norm1.": "model.layers.#.input_layernorm.",
    "decoder.blocks.#.norm2.": "model.layers.#.post_attention_layernorm.",
    "decoder.blocks.#.attn.out_proj.": "model.layers.#.self_attn.o_proj.",
    "decoder.blocks.#.attn.": "model.layers.#.self_attn.",
    "decoder.blocks.#.mlp.": "model.layers.#.mlp.",
}
VISION = {
    "vision_encoder.patch_embedding.conv.": "embeddings.patch_embedding.",
    "vision_encoder.patch_embedding.position_embedding": "embeddings.position_embedding.weight",
    "vision_encoder.layer_norm.": "post_layernorm.",
    "vision_encoder.blocks.#.ln1.": "encoder.layers.#.layer_norm1.",
    "vision_encoder.blocks.#.ln2.": "encoder.layers.#.layer_norm2.",
    "vision_encoder.blocks.#.attn.": "encoder.layers.#.self_attn.",
    "vision_encoder.blocks.#.mlp.": "encoder.layers.#.mlp.",
}
"""How names begin in nanoVLM, and in ``LlamaForCausalLM`` and ``SiglipVisionModel``; # a layer."""


def from_nanovlm(folder: str | Path) -> LLaVAModel:
    """Load a published nanoVLM folder, in the dtype of its weights.

    Positions beyond ``lm_max_position_embeddings`` differ: nanoVLM stretches its rotary embedding
    there, Llama does not.

    Raises:
        ModelError: the folder is incomplete, or describes a model of another shape.
    """
    folder = Path(folder)
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        tensors = load_file(folder / "model.safetensors")
        llm, encoder = _empty_llm(config), _empty_encoder(config)
        projector = build_projector(
            "pixel_shuffle",
            config["vit_hidden_dim"],
            config["lm_hidden_dim"],
            pixel_shuffle_factor=config["mp_pixel_shuffle_factor"],
            visual_select_layer=None,
        )
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(
            f"cannot read a nanoVLM model from '{folder}': expected its config.json and "
            f"model.safetensors ({type(error).__name__}: {error})"
        ) from error
    _fill(llm, _rename(tensors, LANGUAGE), folder)
    _fill(encoder, _split_attention(_rename(tensors, VISION)), folder)
    _fill(projector, {"model.0.weight": tensors["MP.proj.weight"]}, folder)
    dtype = tensors["MP.proj.weight"].dtype
    return LLaVAModel(
        llm.to(dtype),
        encoder.to(dtype),
        projector=projector.to(dtype),
        visual_select_layer=None,
        use_activation_checkpointing=False,
    )


def _empty_llm(config: dict[str, Any]) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    if config.get("lm_attn_scaling", 1.0) != 1.0:
        raise ModelError(f"lm_attn_scaling must be 1.0, found {config['lm_attn_scaling']}")
    return LlamaForCausalLM(
        LlamaConfig(
            hidden_size=config["lm_hidden_dim"],
            intermediate_size=config["lm_inter_dim"],
            rms_norm_eps=config["lm_rms_eps"],
            rope_parameters={"rope_type": "default", "rope_theta": float(config["lm_re_base"])},
            max_position_embeddings=config["lm_max_position_embeddings"],
            vocab_size=config["lm_vocab_size"],
            num_attention_heads=config["lm_n_heads"],
            num_key_value_heads=config["lm_n_kv_heads"],
            num_hidden_layers=config["lm_n_blocks"],
            attention_dropout=config.get("lm_dropout", 0.0),
            tie_word_embeddings=config["lm_tie_weights"],
        )
    )


def _empty_encoder(config: dict[str, Any]) -> Any:
    from transformers import SiglipVisionConfig, SiglipVisionModel

    if config.get("vit_cls_flag"):
        raise ModelError("vit_cls_flag is set: a nanoVLM that sees the class token only has no map")
    return SiglipVisionModel(
        SiglipVisionConfig(
            hidden_size=config["vit_hidden_dim"],
            intermediate_size=config["vit_inter_dim"],
            patch_size=config["vit_patch_size"],
            image_size=config["vit_img_size"],
            num_attention_heads=config["vit_n_heads"],
            num_hidden_layers=config["vit_n_blocks"],
            attention_dropout=config.get("vit_dropout", 0.0),
            layer_norm_eps=config["vit_ln_eps"],
            vision_use_head=False,
        )
    )


def _rename(tensors: Tensors, beginnings: dict[str, str]) -> Tensors:
    """Return the tensors whose names begin as a key says, by their new names."""
    renamed = {}
    for name, tensor in tensors.items():
        for old, new in beginnings.items():
            if match := re.match(re.escape(old).replace(r"\#", r"(\d+)"), name):
                layer = match[1] if match.groups() else ""
                renamed[new.replace("#", layer) + name[match.end() :]] = tensor
                break
    return renamed


def _split_attention(tensors: Tensors) -> Tensors:
    """Query, key and value are one matrix there; the position embedding has a leading axis."""
    split = {}
    for name, tensor in tensors.items():
        if ".qkv_proj." in name:
            for key, part in zip("qkv", tensor.chunk(3), strict=True):
                split[name.replace("qkv_proj", f"{key}_proj")] = part
        else:
            split[name] = tensor[0] if name.endswith("position_embedding.weight") else tensor
    return split


def _fill(model: Any, tensors: Tensors, folder: Path) -> None:
    """Load all weights; of tied ones (input and output embedding) one is enough."""
    own = getattr(model, "vision_model", model)  # SigLIP's body, in releases that wrap it
    try:
        missing, unexpected = own.load_state_dict(tensors, strict=False)
    except RuntimeError as error:
        raise ModelError(f"'{folder}' does not fit its own config.json: {error}") from error
    if getattr(model.config, "tie_word_embeddings", False):
        if "model.embed_tokens.weight" in missing:
            model.get_input_embeddings().load_state_dict({"weight": tensors["lm_head.weight"]})
        missing = [n for n in missing if n not in ("lm_head.weight", "model.embed_tokens.weight")]
    if missing or unexpected:
        raise ModelError(
            f"'{folder}' does not hold the weights that its config.json describes: missing "
            f"{missing[:3]}, unknown {unexpected[:3]}"
        )


def to_nanovlm(model: LLaVAModel) -> tuple[dict[str, Any], Tensors]:
    """Return the sizes of nanoVLM's ``config.json`` and its tensors.

    What belongs to tokenizer and pictures (``lm_tokenizer``, ``lm_chat_template``,
    ``vlm_extra_tokens``, ``max_img_size``...) is the caller's to add.

    Raises:
        ModelError: a model that nanoVLM cannot express.
    """
    llm, encoder, projector = model.llm, model.visual_encoder, model.projector.config
    head = llm.config.hidden_size // llm.config.num_attention_heads
    expressible = {
        "a Llama without biases as language model": llm.config.model_type == "llama"
        and not (llm.config.attention_bias or llm.config.mlp_bias)
        and llm.config.head_dim == head,
        "a plain rotary embedding": llm.config.rope_parameters["rope_type"] == "default",
        "a SigLIP vision encoder": encoder.config.model_type == "siglip_vision_model",
        "no adapters (merge them first)": not hasattr(llm, "peft_config")
        and not hasattr(encoder, "peft_config"),
        "projector='pixel_shuffle'": projector.kind == "pixel_shuffle",
        "visual_select_layer=None": model.visual_select_layer is None,
    }
    if lacking := [what for what, holds in expressible.items() if not holds]:
        raise ModelError(f"nanoVLM's layout needs {'; '.join(lacking)}")
    return _sizes(model), _tensors(model)


def _sizes(model: LLaVAModel) -> dict[str, Any]:
    lm, vit = model.llm.config, model.visual_encoder.config
    factor = model.projector.config.pixel_shuffle_factor
    return {
        "vit_hidden_dim": vit.hidden_size,
        "vit_inter_dim": vit.intermediate_size,
        "vit_patch_size": vit.patch_size,
        "vit_img_size": vit.image_size,
        "vit_n_heads": vit.num_attention_heads,
        "vit_dropout": vit.attention_dropout,
        "vit_n_blocks": vit.num_hidden_layers,
        "vit_ln_eps": vit.layer_norm_eps,
        "vit_cls_flag": False,
        "vit_model_type": vit._name_or_path,
        "lm_hidden_dim": lm.hidden_size,
        "lm_inter_dim": lm.intermediate_size,
        "lm_rms_eps": lm.rms_norm_eps,
        "lm_re_base": lm.rope_parameters["rope_theta"],
        "lm_max_position_embeddings": lm.max_position_embeddings,
        "lm_vocab_size": lm.vocab_size,
        "lm_n_heads": lm.num_attention_heads,
        "lm_n_kv_heads": lm.num_key_value_heads,
        "lm_dropout": lm.attention_dropout,
        "lm_n_blocks": lm.num_hidden_layers,
        "lm_tie_weights": lm.tie_word_embeddings,
        "lm_model_type": lm._name_or_path,
        "mp_pixel_shuffle_factor": factor,
        "mp_image_token_length": (vit.image_size // vit.patch_size // factor) ** 2,
    }


def _tensors(model: LLaVAModel) -> Tensors:
    lm = model.llm.config
    language = _rename(model.llm.state_dict(), _reversed(LANGUAGE))
    if lm.tie_word_embeddings:
        del language["decoder.head.weight"]
    size = lm.hidden_size // lm.num_attention_heads
    steps = torch.arange(0, size, 2).float() / size
    encoder = getattr(model.visual_encoder, "vision_model", model.visual_encoder)
    vision = _rename(_join_attention(encoder.state_dict()), _reversed(VISION))
    tensors = {
        "MP.proj.weight": model.projector.state_dict()["model.0.weight"],
        "decoder.rotary_embd.inv_freq": 1.0 / (lm.rope_parameters["rope_theta"] ** steps),
    }
    return {name: t.contiguous() for name, t in (language | vision | tensors).items()}


def _reversed(beginnings: dict[str, str]) -> dict[str, str]:
    return {new: old for old, new in beginnings.items()}


def _join_attention(tensors: Tensors) -> Tensors:
    joined = {}
    for name, tensor in tensors.items():
        if ".q_proj." in name:
            parts = [tensors[name.replace("q_proj", f"{key}_proj")] for key in "qkv"]
            joined[name.replace("q_proj", "qkv_proj")] = torch.cat(parts)
        elif ".k_proj." not in name and ".v_proj." not in name:
            joined[name] = tensor[None] if name.endswith("position_embedding.weight") else tensor
    return joined
