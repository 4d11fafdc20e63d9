"""Vision encoders of any kind behind one function: pictures in, one vector per patch out."""

from __future__ import annotations

from typing import Any

import torch

from inlay.core.errors import ModelError
from inlay.models.lm import without_adapter


def load_visual_encoder(pretrained_model_name_or_path: str, **kwargs: Any) -> Any:
    """Load a vision model: CLIP, SigLIP, SigLIP 2, DINOv2, DINOv3, ViT and the like.

    Of a checkpoint with two towers (CLIP, SigLIP) only the vision half is loaded.

    Args:
        pretrained_model_name_or_path: a folder in Hugging Face layout or a hub name.
        kwargs: passed on to ``from_pretrained``, such as ``dtype``.

    Raises:
        ModelError: nothing there, or its weights do not fill the model.
    """
    from transformers import MODEL_MAPPING, AutoConfig

    name = pretrained_model_name_or_path
    try:
        config = AutoConfig.from_pretrained(name)
        half = getattr(config, "vision_config", config)
        architecture: Any = MODEL_MAPPING[type(half)]
        model, info = architecture.from_pretrained(name, output_loading_info=True, **kwargs)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"cannot load a vision encoder from '{name}': {error}") from error
    if missing := sorted(info["missing_keys"]):
        raise ModelError(
            f"'{name}' does not hold a whole {type(model).__name__}: {len(missing)} weights are "
            f"missing, first '{missing[0]}'"
        )
    return model


def features(encoder: Any, pixel_values: torch.Tensor, select_layer: int | None) -> torch.Tensor:
    """Encode pictures.

    Args:
        encoder: a transformers vision model, with or without an adapter.
        pixel_values: float ``[B, 3, H, W]``, normalised; H and W multiples of the patch size.
        select_layer: index into the hidden states (0 the embeddings, -2 the one before last), or
            None for the last hidden state, after the final norm where the model applies one.

    Returns:
        ``[B, H/p * W/p, width]``, patches row by row; class and register tokens are left out.
    """
    patch = encoder.config.patch_size
    rows, columns = pixel_values.shape[-2] // patch, pixel_values.shape[-1] // patch
    inputs: dict[str, Any] = {"pixel_values": pixel_values.to(encoder.dtype)}
    if encoder.config.model_type.startswith("siglip2"):
        inputs = _as_patches(inputs["pixel_values"], patch, rows, columns)
    out = encoder(**inputs, output_hidden_states=select_layer is not None)
    states = out.last_hidden_state if select_layer is None else out.hidden_states[select_layer]
    return states[:, -rows * columns :]  # class and register tokens come first


def _as_patches(pixels: torch.Tensor, patch: int, rows: int, columns: int) -> dict[str, Any]:
    """Inputs of SigLIP 2 (NaFlex, arXiv 2502.14786): patches ``[B, rows * columns, p * p * 3]``."""
    cut = pixels.unflatten(2, (rows, patch)).unflatten(4, (columns, patch))  # [B, 3, R, p, C, p]
    flat = cut.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)
    shapes = torch.tensor([[rows, columns]] * len(pixels))
    return {"pixel_values": flat, "pixel_attention_mask": None, "spatial_shapes": shapes}


def freeze_unused(encoder: Any, select_layer: int | None) -> None:
    """Stop training the weights that ``features`` does not depend on, adapters included.

    Those behind the selected layer, pooling heads, mask tokens: they never get a gradient, and
    data parallel training waits for the gradient of every trained weight. SigLIP's attention
    pooling, a key and a value of every patch, is no longer computed either; its weights stay.
    """
    if getattr(without_adapter(encoder), "use_head", False):
        without_adapter(encoder).use_head = False
    unused = _unused_parameters(without_adapter(encoder), select_layer)
    for name, parameter in encoder.named_parameters():
        plain = name.removeprefix("base_model.model.").replace(".base_layer.", ".")
        module, lora, _ = plain.partition(".lora_")
        if (f"{module}.weight" if lora else plain) in unused:
            parameter.requires_grad_(False)


def _unused_parameters(encoder: Any, select_layer: int | None) -> set[str]:
    """Names of the weights without a gradient, found on a copy without storage (``meta``)."""
    with torch.enable_grad():
        weights, out = _on_meta(encoder, select_layer)
        gradients = torch.autograd.grad(
            out, list(weights.values()), torch.ones_like(out), allow_unused=True
        )
    return {name for name, g in zip(weights, gradients, strict=True) if g is None}


def _on_meta(
    encoder: Any, select_layer: int | None
) -> tuple[dict[str, torch.nn.Parameter], torch.Tensor]:
    """Weights of a copy of ``encoder`` without storage, and its features of one picture."""
    config = encoder.config
    with torch.device("meta"):
        twin = type(encoder)._from_config(config).eval()
    side = getattr(config, "image_size", None) or round(config.num_patches**0.5) * config.patch_size
    height, width = side if isinstance(side, list | tuple) else (side, side)
    out = features(twin, torch.zeros(1, 3, height, width, device="meta"), select_layer)
    return dict(twin.named_parameters()), out
