"""Tiny random models with eyes, and flat rows of documents with pictures."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import transformers as T

from inlay.core.types import IGNORE_INDEX

IMAGE = 99  # the image token
SIDE, PATCH = 16, 4  # px: 16 patches a picture
TEXT: dict[str, Any] = dict(
    vocab_size=100,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=512,
    bos_token_id=None,
    eos_token_id=None,
    pad_token_id=0,
)
VISION: dict[str, Any] = dict(
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    image_size=SIDE,
    patch_size=PATCH,
)


def livelier(model: Any) -> Any:
    """Larger random weights, so that a token that sees too much changes the loss at once."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.3)
    return model


def llama(vocab_size: int = 100, **kwargs: Any) -> Any:
    torch.manual_seed(0)
    return livelier(T.LlamaForCausalLM(T.LlamaConfig(**TEXT | {"vocab_size": vocab_size} | kwargs)))


def clip() -> Any:
    torch.manual_seed(2)
    return T.CLIPVisionModel(T.CLIPVisionConfig(**VISION))


def siglip() -> Any:
    torch.manual_seed(2)
    return T.SiglipVisionModel(T.SiglipVisionConfig(**VISION, vision_use_head=False))


Docs = list[tuple[list[int], int]]  # ids, and how many of the last are trained


def text(length: int) -> list[int]:
    return torch.randint(1, 90, (length,)).tolist()


def seeing(*tokens: int) -> list[int]:
    """A document of text with pictures of so many tokens."""
    ids = text(3)
    for count in tokens:
        ids += [97, *[IMAGE] * count, 96, *text(2)]
    return ids + text(6)


def row(docs: Docs, images: dict[str, torch.Tensor] | None = None) -> dict[str, Any]:
    """Documents as one flat row, as the data side makes it."""
    ids = torch.tensor([i for d, _ in docs for i in d])
    labels = [[IGNORE_INDEX] * (len(d) - n) + d[len(d) - n :] for d, n in docs]
    flat = torch.tensor([i for d in labels for i in d])
    starts = torch.tensor([0, *[len(d) for d, _ in docs]]).cumsum(0)
    batch = {
        "input_ids": ids[None],
        "labels": flat[None],
        "position_ids": torch.cat([torch.arange(len(d)) for d, _ in docs])[None],
        "doc_starts": starts.to(torch.int32),
        "trained_positions": (flat[1:] != IGNORE_INDEX).nonzero()[:, 0],
        "longest_document": max(len(d) for d, _ in docs),
    }
    if images is not None:
        batch |= {"images": images, "image_positions": (ids == IMAGE).nonzero()[:, 0]}
    return batch


def pictures(count: int) -> dict[str, torch.Tensor]:
    return {"pixel_values": torch.randn(count, 3, SIDE, SIDE)}


def _tiles(sizes: list[list[int]] | None = None, mask: bool = False) -> dict[str, torch.Tensor]:
    images = {**pictures(6), "num_rows": torch.tensor([3, 3])}
    if sizes is not None:
        images["image_sizes"] = torch.tensor(sizes)
    if mask:
        images["pixel_attention_mask"] = torch.ones(6, SIDE, SIDE, dtype=torch.bool)
    return images


def _patches() -> dict[str, torch.Tensor]:
    grids = torch.tensor([[1, 4, 4], [1, 4, 6]])
    patches = torch.randn(40, 3 * 2 * PATCH**2)
    return {"pixel_values": patches, "image_grid_thw": grids, "num_rows": grids.prod(1)}


ROPE = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]}
QWEN = dict(
    image_token_id=IMAGE, video_token_id=98, vision_start_token_id=97, vision_end_token_id=96
)
QWEN_VISION: dict[str, Any] = dict(
    hidden_size=32,
    intermediate_size=48,
    depth=2,
    num_heads=4,
    patch_size=PATCH,
    spatial_merge_size=2,
    temporal_patch_size=2,
)
GRIDS = [[16, 32], [32, 16], [32, 32]]


def _qwen2() -> Any:
    vision = QWEN_VISION | dict(embed_dim=32, mlp_ratio=2)
    return T.Qwen2VLConfig(
        text_config=TEXT | {"rope_parameters": ROPE}, vision_config=vision, **QWEN
    )


def _qwen2_5() -> Any:
    vision = QWEN_VISION | dict(out_hidden_size=32, window_size=16, fullatt_block_indexes=[1])
    return T.Qwen2_5_VLConfig(
        text_config=TEXT | {"rope_parameters": ROPE}, vision_config=vision, **QWEN
    )


def _qwen3() -> Any:
    vision = QWEN_VISION | dict(
        out_hidden_size=32, num_position_embeddings=64, deepstack_visual_indexes=[0]
    )
    return T.Qwen3VLConfig(
        text_config=TEXT | {"rope_parameters": ROPE, "head_dim": 8}, vision_config=vision, **QWEN
    )


def _internvl() -> Any:
    vision = VISION | {"image_size": [SIDE, SIDE], "patch_size": [PATCH, PATCH]}
    return T.InternVLConfig(
        text_config=T.Qwen2Config(**TEXT).to_dict(), vision_config=vision, image_token_id=IMAGE
    )


def _idefics(config: Any) -> Any:
    return config(
        text_config=T.LlamaConfig(**TEXT).to_dict(),
        vision_config=VISION,
        image_token_id=IMAGE,
        scale_factor=2,
    )


def _llava(config: Any, vision: Any, **kwargs: Any) -> Any:
    return config(
        text_config=T.LlamaConfig(**TEXT),
        vision_config=vision(**VISION),
        image_token_id=IMAGE,
        **kwargs,
    )


def _hybrid() -> Any:
    sam = T.SamVisionConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        image_size=32,
        patch_size=4,
        output_channels=16,
        global_attn_indexes=[1],
        window_size=2,
        mlp_dim=48,
    )
    return _llava(T.DeepseekVLHybridConfig, T.SiglipVisionConfig, high_res_vision_config=sam)


def _gemma3() -> Any:
    return T.Gemma3Config(
        text_config=T.Gemma3TextConfig(
            **TEXT,
            head_dim=8,
            sliding_window=8,
            layer_types=["sliding_attention", "full_attention"],
        ),
        vision_config=T.SiglipVisionConfig(**VISION),
        image_token_index=IMAGE,
        mm_tokens_per_image=4,
    )


def _paligemma() -> Any:
    return T.PaliGemmaConfig(
        text_config=T.GemmaConfig(**TEXT, head_dim=8),
        vision_config=T.SiglipVisionConfig(**VISION, projection_dim=32),
        image_token_index=IMAGE,
        projection_dim=32,
    )


def _high_res() -> dict[str, torch.Tensor]:
    return {**pictures(2), "high_res_pixel_values": torch.randn(2, 3, 32, 32)}


Images = dict[str, torch.Tensor]
# config, a row's two pictures, tokens of each
FAMILIES: dict[str, tuple[Callable[[], Any], Callable[[], Images], list[int]]] = {
    "qwen2_vl": (_qwen2, _patches, [4, 6]),
    "qwen2_5_vl": (_qwen2_5, _patches, [4, 6]),
    "qwen3_vl": (_qwen3, _patches, [4, 6]),
    "internvl": (_internvl, lambda: pictures(2), [4, 4]),
    "smolvlm": (lambda: _idefics(T.SmolVLMConfig), lambda: _tiles(mask=True), [12, 12]),
    "idefics3": (lambda: _idefics(T.Idefics3Config), lambda: _tiles(mask=True), [12, 12]),
    "llava": (lambda: _llava(T.LlavaConfig, T.CLIPVisionConfig), lambda: pictures(2), [16, 16]),
    "llava_next": (
        lambda: _llava(T.LlavaNextConfig, T.CLIPVisionConfig, image_grid_pinpoints=GRIDS),
        lambda: _tiles([[32, 16], [16, 32]]),
        [16 + 8 * 5, 16 + 4 * 9],
    ),
    "llava_onevision": (
        lambda: _llava(T.LlavaOnevisionConfig, T.SiglipVisionConfig, image_grid_pinpoints=GRIDS),
        lambda: _tiles([[32, 16], [16, 32]]) | {"batch_num_images": torch.ones(2).long()},
        [16 + 8 * 5, 16 + 4 * 9],
    ),
    "deepseek_vl": (
        lambda: _llava(T.DeepseekVLConfig, T.SiglipVisionConfig),
        lambda: pictures(2),
        [16, 16],
    ),
    "deepseek_vl_hybrid": (_hybrid, _high_res, [16, 16]),
    "gemma3": (_gemma3, lambda: pictures(2), [4, 4]),
    "paligemma": (_paligemma, lambda: pictures(2), [16, 16]),
}


def family(name: str) -> tuple[Any, Images, list[int]]:
    """A model, the pictures of a row, and the tokens of each picture."""
    make, images, tokens = FAMILIES[name]
    torch.manual_seed(0)
    model = livelier(T.AutoModelForImageTextToText.from_config(make()))
    return model, told_apart(images(), tokens), tokens


def told_apart(images: Images, tokens: list[int]) -> Images:
    """Pictures with their image tokens and, if not known yet, one row of pixels each."""
    rows = torch.ones(len(tokens)).long()
    return {"num_rows": rows, **images, "num_tokens": torch.tensor(tokens)}
