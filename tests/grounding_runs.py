"""Grounding runs for tests: tiny random models of the real classes, and COCO's folders around real
photos or around three drawn ones."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import tiny_vlms
from PIL import Image
from tiny_sam import SIDE, tiny_sam
from vision_families import GRIDS, write_family

DEEPSEEK = "frozen_deepseek_vl_1_3b_chat_unet_sam_l_refcoco_png"
QWEN = "frozen_qwen2_5_vl_3b_instruct_unet_sam_l_refcoco_png"
LLAVA_NEXT = "frozen_llava_next_vicuna_7b_unet_sam_l_refcoco_png"

TEXT: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2048,
    "bos_token_id": None,
}
VISION: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
LAYOUT = {
    "annotations/png_coco_train2017.json": "png/narratives.json",
    "annotations/panoptic_train2017.json": "png/panoptic.json",
    "annotations/panoptic_train2017": "png/panoptic",
    "train2017": "png/images",
    "train2014": "refcoco/images",
    "refcoco/refs(unc).p": "refcoco/refs(real).p",
    "refcoco+/refs(unc).p": "refcoco/refs(real).p",
    "refcocog/refs(umd).p": "refcoco/refs(real).p",
    **{f"refcoco{x}/instances.json": "refcoco/instances.json" for x in ("", "+", "g")},
}
"""Where the recipes look for a file, and where it lies in the real material."""


def link_coco(root: Path, grounding: Path) -> Path:
    """Give the real material the folders that the published recipes expect."""
    for there, here in LAYOUT.items():
        (root / there).parent.mkdir(parents=True, exist_ok=True)
        (root / there).symlink_to(grounding / here)
    return root


def deepseek(folder: Path, **text: Any) -> Path:
    """A DeepSeek-VL in the layout of transformers: 8 x 8 image tokens, 12 maps.

    Args:
        text: settings of its language model, over ``TEXT``.
    """
    from transformers import DeepseekVLConfig, DeepseekVLForConditionalGeneration

    tokenizer = tiny_vlms.byte_tokenizer(tokens=("<image_placeholder>",))
    config = DeepseekVLConfig(
        text_config={**TEXT, "vocab_size": len(tokenizer), **text},
        vision_config={
            **VISION,
            "model_type": "siglip_vision_model",
            "image_size": 64,
            "patch_size": 8,
        },
        image_token_id=tokenizer.convert_tokens_to_ids("<image_placeholder>"),
    )
    return _save(DeepseekVLForConditionalGeneration, config, tokenizer, folder)


def llava_next(folder: Path) -> Path:
    """A LLaVA-Next: 4 x 4 coarse image tokens and up to 4 x 12 fine ones, 24 maps."""
    from transformers import LlavaNextConfig, LlavaNextForConditionalGeneration

    tiny_vlms.byte_tokenizer().save_pretrained(folder / "words")
    write_family("llava_next", folder / "words", folder)
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    config = LlavaNextConfig(
        text_config={**TEXT, "vocab_size": len(tokenizer)},
        vision_config={
            **VISION,
            "model_type": "clip_vision_model",
            "image_size": 56,
            "patch_size": 14,
        },
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        image_grid_pinpoints=GRIDS["image_grid_pinpoints"],
    )
    return _save(LlavaNextForConditionalGeneration, config, tokenizer, folder)


def _save(architecture: Any, config: Any, tokenizer: Any, folder: Path) -> Path:
    """Random weights large enough that a model's words look at different places."""
    import torch

    torch.manual_seed(5)
    model = architecture(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.2)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def sam(folder: Path) -> Path:
    """A SAM for pictures of ``SIDE`` px."""
    tiny_sam().save_pretrained(folder)
    return folder


def options(coco: Path, model: Path, refiner: Path | None, *more: str) -> list[str]:
    """Overrides of a published recipe: paths and sizes."""
    return [
        f"pretrained_model_name_or_path={model}",
        f"data_root={coco}/",
        f"sam_checkpoint={refiner}",
        f"picture_size={SIDE}",
        "model.mask_head.base_channels=8",
        *more,
    ]


SIZES = {
    DEEPSEEK: ["image_size=64", "patch_size=8"],
    QWEN: ["max_pixels=None"],
    LLAVA_NEXT: [],
}
"""What else is smaller in a tiny model of a recipe."""


def write_coco(root: Path) -> None:
    """Three drawn pictures with a block each, a narrative and three sets of references."""
    width, height = 60, 40
    images, annotations, refs, panoptic, narratives = [], [], [], [], []
    for name in ("annotations/panoptic_train2017", "train2017", "train2014"):
        (root / name).mkdir(parents=True)
    for number in (1, 2, 3):
        file = f"{number}.png"
        left = 5 * number
        segments = np.zeros((height, width, 3), np.uint8)
        segments[10:30, left : left + 20, 0] = number
        picture = Image.fromarray(segments * 60)
        for years in ("train2017", "train2014"):
            picture.save(root / years / file)
        Image.fromarray(segments).save(root / "annotations/panoptic_train2017" / file)
        images.append(dict(id=number, file_name=file, width=width, height=height))
        box = [left, 10, 20, 20]
        corners = [left, 10, left + 20, 10, left + 20, 30, left, 30]
        annotations.append(
            dict(id=number, image_id=number, category_id=1, bbox=box, segmentation=[corners])
        )
        refs.append(
            dict(
                ref_id=number,
                ann_id=number,
                image_id=number,
                split="train",
                sentences=[dict(sent="the block", raw="the block"), dict(sent="it", raw="it")],
            )
        )
        segment = dict(id=number, category_id=1, area=400, bbox=box, iscrowd=0)
        panoptic.append(dict(image_id=number, file_name=file, segments_info=[segment]))
        narratives.append(
            dict(
                image_id=str(number),
                segments=[
                    dict(utterance="here is ", segment_ids=[], plural=False),
                    dict(utterance="a block", segment_ids=[str(number)], plural=False),
                ],
            )
        )
    categories = [dict(id=1, name="block", isthing=1)]
    coco = dict(images=images, annotations=annotations, categories=categories)
    maps = dict(images=images, annotations=panoptic, categories=categories)
    (root / "annotations/panoptic_train2017.json").write_text(json.dumps(maps))
    (root / "annotations/png_coco_train2017.json").write_text(json.dumps(narratives))
    for name, by in (("refcoco", "unc"), ("refcoco+", "unc"), ("refcocog", "umd")):
        (root / name).mkdir()
        (root / name / "instances.json").write_text(json.dumps(coco))
        (root / name / f"refs({by}).p").write_bytes(pickle.dumps(refs))
