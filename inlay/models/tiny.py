"""Random tiny backbones for a vision-language model that learns from nothing on a CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def write_tiny_backbones(
    folder: Path,
    tokenizer: Any,
    image_size: int,
    *,
    patch_size: int = 12,
    width: int = 96,
    num_layers: int = 4,
    num_heads: int = 4,
    initializer_range: float = 0.06,
    max_positions: int = 512,
    seed: int = 0,
) -> None:
    """Write a random Llama with its tokenizer to ``folder``, and a random SigLIP vision encoder
    with its image processor to ``folder/visual_encoder``.

    Args:
        tokenizer: of transformers, with EOS and padding token.
        image_size: side of the pictures in px, a multiple of ``patch_size``.
        width: of both; their MLPs are twice as wide.
        num_layers: of each.
        initializer_range: standard deviation of the language model's weights; the usual 0.02 is
            for models ten times as wide.
        max_positions: context length in tokens.
    """
    import torch
    from transformers import (
        LlamaConfig,
        LlamaForCausalLM,
        SiglipImageProcessorPil,
        SiglipVisionConfig,
        SiglipVisionModel,
    )

    sizes: dict[str, Any] = {
        "hidden_size": width,
        "intermediate_size": 2 * width,
        "num_hidden_layers": num_layers,
        "num_attention_heads": num_heads,
    }
    llm_config = LlamaConfig(
        **sizes,
        vocab_size=len(tokenizer),
        num_key_value_heads=num_heads,
        max_position_embeddings=max_positions,
        tie_word_embeddings=True,
        initializer_range=initializer_range,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    encoder_config = SiglipVisionConfig(
        **sizes, image_size=image_size, patch_size=patch_size, vision_use_head=False
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        LlamaForCausalLM(llm_config).save_pretrained(folder)
        SiglipVisionModel(encoder_config).save_pretrained(folder / "visual_encoder")
    size = {"height": image_size, "width": image_size}
    SiglipImageProcessorPil(size=size).save_pretrained(folder / "visual_encoder")
    tokenizer.save_pretrained(folder)


def write_tiny_sam(
    folder: Path,
    image_size: int,
    *,
    patch_size: int = 8,
    width: int = 48,
    num_layers: int = 3,
    channels: int = 32,
    seed: int = 0,
) -> None:
    """Write a random SAM to ``folder``: everything of SAM, for pictures of a few pixels.

    Args:
        image_size: side of the pictures in px, a multiple of ``patch_size``.
        width, num_layers: of the image encoder; its last layer attends to the whole picture.
        channels: of picture embedding, prompts and mask decoder, a multiple of 8.
    """
    import torch
    from transformers import (
        SamConfig,
        SamMaskDecoderConfig,
        SamModel,
        SamPromptEncoderConfig,
        SamVisionConfig,
    )

    vision = SamVisionConfig(
        image_size=image_size,
        patch_size=patch_size,
        hidden_size=width,
        mlp_dim=2 * width,
        num_hidden_layers=num_layers,
        num_attention_heads=4,
        output_channels=channels,
        num_pos_feats=channels // 2,
        window_size=6,
        global_attn_indexes=[num_layers - 1],
    )
    prompts = SamPromptEncoderConfig(
        hidden_size=channels, image_size=image_size, patch_size=patch_size, mask_input_channels=8
    )
    decoder = SamMaskDecoderConfig(
        hidden_size=channels, mlp_dim=2 * channels, num_attention_heads=4, iou_head_hidden_dim=32
    )
    config = SamConfig(
        vision_config=vision, prompt_encoder_config=prompts, mask_decoder_config=decoder
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        SamModel(config).save_pretrained(folder)
