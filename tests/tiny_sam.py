"""Tiny random SAM and SAM 2, built from the real configuration classes."""

from __future__ import annotations

from typing import Any

SIDE = 96
"""Longest side of their pictures, in px."""
WIDTH = 32
"""Of their prompts."""

_DECODER = {"hidden_size": WIDTH, "mlp_dim": 64, "iou_head_hidden_dim": 16}
_SAM_DECODER = _DECODER | {"layer_norm_eps": 1e-5}  # as in segment-anything
_PROMPT = {
    "hidden_size": WIDTH,
    "image_size": SIDE,
    "patch_size": 16,
    "mask_input_channels": 8,
    "layer_norm_eps": 1e-6,
}


def tiny_sam(seed: int = 0, **settings: Any) -> Any:
    """A ``SamModel`` of two layers, one of them windowed, for pictures of 96 px.

    Args:
        settings: of the vision encoder, over those here.
    """
    from transformers import SamConfig, SamModel

    vision = {
        "hidden_size": 24,
        "output_channels": WIDTH,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": SIDE,
        "patch_size": 16,
        "window_size": 4,
        "global_attn_indexes": [1],
        "num_pos_feats": WIDTH // 2,
    }
    config = SamConfig(
        vision_config=vision | settings,
        prompt_encoder_config=_PROMPT,
        mask_decoder_config=_SAM_DECODER,
    )
    return _randomised(SamModel(config), seed)


def tiny_sam2(seed: int = 0) -> Any:
    """A ``Sam2Model`` of four stages, with one global block, for pictures of 96 px."""
    from transformers import Sam2Config, Sam2HieraDetConfig, Sam2Model, Sam2VisionConfig

    widths = [8, 16, 24, 32]
    backbone = Sam2HieraDetConfig(
        hidden_size=widths[0],
        image_size=[SIDE, SIDE],
        blocks_per_stage=[1, 1, 2, 1],
        embed_dim_per_stage=widths,
        num_attention_heads_per_stage=[1, 1, 2, 2],
        window_size_per_stage=[4, 4, 2, 2],
        window_positional_embedding_background_size=[3, 3],
        global_attention_blocks=[3],
    )
    vision = Sam2VisionConfig(
        backbone_config=backbone,
        backbone_channel_list=widths[::-1],
        backbone_feature_sizes=[[24, 24], [12, 12], [6, 6]],
        fpn_hidden_size=WIDTH,
    )
    config = Sam2Config(
        vision_config=vision, prompt_encoder_config=_PROMPT, mask_decoder_config=_DECODER
    )
    return _randomised(Sam2Model(config), seed)


def _randomised(model: Any, seed: int) -> Any:
    """Weights large enough that every part shows in the output: SAM's own ones start near zero."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in [*model.named_parameters(), *model.named_buffers()]:
            noise = torch.randn(weight.shape, generator=generator)
            if "positional_embedding" in name or ("embed" in name and weight.dim() == 2):
                weight.copy_(noise)
            elif weight.dim() > 1:
                weight.copy_(noise * weight[0].numel() ** -0.5)
            else:
                weight.add_(0.1 * noise)
    return model.eval()
