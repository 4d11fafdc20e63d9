"""How much memory a run takes per device, estimated before any weight is loaded."""

from __future__ import annotations

from typing import Any

import torch

from inlay.config.build import Builder, resolve

STATE_BYTES = {"8bit": 2, "sgd": 4}
"""Optimizer state per trained value, in bytes, where it is not Adam's two float32."""


def meta_model(cfg: Any) -> Any:
    """Build the config's language model without weights (``meta`` device), LoRA included.

    Returns None for models that do not say their base by ``pretrained_model_name_or_path``.
    """
    node = (cfg.get("model") or {}).get("llm")
    name = node.get("pretrained_model_name_or_path") if isinstance(node, dict) else None
    if name is None:
        return None
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(name)
    with torch.device("meta"):
        llm = AutoModelForCausalLM.from_config(config)
        lora = cfg["model"].get("lora")
        if lora:
            from peft import get_peft_model

            llm = get_peft_model(llm, Builder(cfg).build(lora))
    return llm


def estimate(cfg: Any, llm: Any, tokens: int, trained_share: float) -> dict[str, float]:
    """Estimate bytes per device, by part.

    Args:
        llm: from :func:`meta_model`.
        tokens: of one micro-batch.
        trained_share: share of the tokens that have a loss, 0 to 1: logits exist only for these.

    Returns:
        ``weights, gradients, optimizer, activations, logits, total`` in bytes, and
        ``parameters, trained`` as counts.
    """
    trained = sum(p.numel() for p in llm.parameters() if p.requires_grad)
    total = sum(p.numel() for p in llm.parameters())
    node = cfg["model"]["llm"]
    frozen_bytes = _bytes_per_weight(node)
    trained_bytes = 4 if cfg["model"].get("lora") else frozen_bytes
    text = llm.config.get_text_config()
    layers, width = text.num_hidden_layers, text.hidden_size
    inner = getattr(text, "intermediate_size", 4 * width)
    # Per token and layer: about 34 hidden-size values and 3 of the MLP's inner size, two bytes each
    # (arXiv 2205.05198, eq. 1, without the attention scores that fused kernels never store).
    layer = tokens * (16 * width + 3 * inner) * 2
    recompute = cfg["model"].get("use_activation_checkpointing", True)
    activations = tokens * width * 2 * layers + layer if recompute else layer * layers
    parts = {
        "weights": (total - trained) * frozen_bytes + trained * trained_bytes,
        "gradients": trained * trained_bytes,
        "optimizer": trained * _state_bytes(cfg),
        "activations": activations,
        "logits": tokens * trained_share * text.vocab_size * 10,
    }
    return {**parts, "total": sum(parts.values()), "parameters": total, "trained": trained}


def checkpoint_bytes(cfg: Any, llm: Any) -> int:
    """Size of one checkpoint: trained weights and optimizer state, in bytes."""
    trained = sum(p.numel() for p in llm.parameters() if p.requires_grad)
    width = 4 if cfg["model"].get("lora") else int(_bytes_per_weight(cfg["model"]["llm"]))
    return trained * (width + _state_bytes(cfg))


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
