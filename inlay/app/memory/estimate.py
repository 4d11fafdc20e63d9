"""How much memory a run takes per device, estimated before any weight is loaded."""

from __future__ import annotations

from typing import Any

import torch

from inlay.app.assemble import Parts
from inlay.config.build import Builder, resolve
from inlay.core.errors import ModelError
from inlay.engine.groups import freeze_parts
from inlay.models.loss import LOGITS_AT_ONCE

STATE_BYTES = {"8bit": 2, "sgd": 4}
"""Optimizer state per trained value, in bytes, where it is not Adam's two float32."""

LOADED = ("tokenizer", "pretrained_pth")
"""Arguments of a model that are files to load: they change no size that matters here."""


def meta_model(cfg: Any) -> Any:
    """Build the config's model without weights (``meta`` device), adapters and frozen parts too.

    Returns None for models whose parts do not say their base by ``pretrained_model_name_or_path``.

    Raises:
        ModelError: the model cannot be built without its weights.
    """
    node = cfg.get("model") or {}
    if "lmm" in node:
        raise ModelError("not yet of grounding runs")
    parts = {k: v for k, v in node.items() if k not in LOADED and _is_pretrained(v)}
    if not parts:
        return None
    try:
        with torch.device("meta"):
            built = {name: _without_weights(part) for name, part in parts.items()}
            none = dict.fromkeys(k for k in LOADED if k in node)
            model = Builder(cfg).build(node, **built, **none)
    except Exception as error:  # a model of any origin, run without the data that it expects
        raise ModelError(f"{type(error).__name__}: {error}") from error
    freeze_parts(model, Parts(cfg, seed=0).optim()[0].rates)
    return model


def _is_pretrained(value: Any) -> bool:
    return isinstance(value, dict) and "pretrained_model_name_or_path" in value


def _without_weights(node: dict[str, Any]) -> Any:
    """Build what a node would load, from its configuration alone."""
    from transformers import AutoConfig, AutoModel

    target, name = resolve(node["type"]), node["pretrained_model_name_or_path"]
    owner: Any = getattr(target, "__self__", None)
    if hasattr(owner, "from_config"):
        return owner.from_config(AutoConfig.from_pretrained(name))
    if owner is not None:
        return owner(owner.config_class.from_pretrained(name))
    config = AutoConfig.from_pretrained(name)
    return AutoModel.from_config(getattr(config, "vision_config", config))


def estimate(
    cfg: Any, model: Any, tokens: int, trained_share: float, tiles: float = 0.0
) -> dict[str, float]:
    """Estimate bytes per device, by part.

    Args:
        model: from :func:`meta_model`.
        tokens: of one micro-batch.
        trained_share: share of the tokens that have a loss, 0 to 1: logits exist only for these,
            and for some of them at a time.
        tiles: pictures that the vision encoder sees in one micro-batch.

    Returns:
        ``weights, gradients, optimizer, activations, logits, total`` in bytes, and
        ``parameters, trained`` as counts.
    """
    trained = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    frozen = [(n, p) for n, p in model.named_parameters() if not p.requires_grad]
    trained_bytes = _bytes(cfg, trained)
    count = sum(p.numel() for _, p in trained)
    text = model.llm.config.get_text_config()
    recompute = cfg["model"].get("use_activation_checkpointing", True)
    parts = {
        "weights": _bytes(cfg, frozen) + trained_bytes,
        "gradients": trained_bytes,
        "optimizer": count * _state_bytes(cfg),
        "activations": _activations(text, tokens, recompute) + _vision(model, tiles, recompute),
        "logits": min(tokens * trained_share * text.vocab_size, LOGITS_AT_ONCE) * 10,
    }
    total = count + sum(p.numel() for _, p in frozen)
    return {**parts, "total": sum(parts.values()), "parameters": total, "trained": count}


def _activations(config: Any, tokens: float, recompute: bool) -> float:
    """Bytes that a stack of layers keeps for backward.

    Per token and layer: about 34 hidden-size values and 3 of the MLP's inner size, two bytes each
    (arXiv 2205.05198, eq. 1, without the attention scores that fused kernels never store).
    """
    layers, width = config.num_hidden_layers, config.hidden_size
    inner = getattr(config, "intermediate_size", 4 * width)
    layer = tokens * (16 * width + 3 * inner) * 2
    return tokens * width * 2 * layers + layer if recompute else layer * layers


def _vision(model: Any, tiles: float, recompute: bool) -> float:
    """Bytes of the vision tower's activations, where its configuration tells its size.

    One layer's where the tower is frozen: nothing is kept for backward.
    """
    encoder = getattr(model, "visual_encoder", None)
    config: Any = encoder.config if encoder else getattr(model.llm.config, "vision_config", None)
    size, patch = getattr(config, "image_size", None), getattr(config, "patch_size", None)
    if not (tiles and isinstance(size, int) and isinstance(patch, int)):
        return 0.0
    if not hasattr(config, "num_hidden_layers"):
        return 0.0
    patches = tiles * (size // patch) ** 2
    tower = encoder.named_parameters() if encoder else model.named_parameters()
    learns = any(p.requires_grad for n, p in tower if encoder or "vision" in n)
    whole = _activations(config, patches, recompute)
    return whole if learns else _activations(config, patches, False) / config.num_hidden_layers


def checkpoint_bytes(cfg: Any, model: Any) -> int:
    """Size of one checkpoint: trained weights and optimizer state, in bytes."""
    trained = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    return int(_bytes(cfg, trained) + sum(p.numel() for _, p in trained) * _state_bytes(cfg))


def _bytes(cfg: Any, parameters: list[tuple[str, torch.nn.Parameter]]) -> float:
    """Bytes of parameters in the types that the config loads them in."""
    node = cfg["model"]
    total = 0.0
    for name, parameter in parameters:
        part = node.get(name.partition(".")[0]) or node.get("vlm")
        loaded = _is_pretrained(part) and "lora_" not in name
        total += parameter.numel() * (_bytes_per_weight(part) if loaded else 4)
    return total


def _bytes_per_weight(node: dict[str, Any]) -> float:
    quantised = node.get("quantization_config") or {}
    if quantised.get("load_in_4bit"):
        return 0.53
    if quantised.get("load_in_8bit"):
        return 1.0
    dtype = node.get("dtype", node.get("torch_dtype"))
    return torch.empty(0, dtype=dtype).element_size() if isinstance(dtype, torch.dtype) else 4


def _state_bytes(cfg: Any) -> int:
    name = resolve(cfg["optim_wrapper"]["optimizer"]["type"]).__name__.lower()
    return next((size for key, size in STATE_BYTES.items() if key in name), 8)
