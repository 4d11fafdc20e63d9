"""What grounding.py measures: random networks of several sizes, their image processors, data."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

EXPRESSIONS = [("cat", "dog", "cup"), ("boy", "bus", "bed"), ("hat", "van", "sky")]
"""Of every picture, in each of the three sets."""
PATCH = 14


@dataclass(frozen=True)
class Sizes:
    """Of random networks.

    Attributes:
        width, mlp, heads, layers, vocabulary: of the language model.
        eye: width of its vision encoder, which has as many layers; view: side of its pictures, px.
        sam, side: width of SAM's image encoder, which has as many layers, and its picture in px.
        prompts: width of SAM's decoder; unet: of the mask head's first stage.
        pictures: in the data set, which has three samples of each.
    """

    width: int
    mlp: int
    heads: int
    layers: int
    vocabulary: int
    eye: int
    view: int
    sam: int
    side: int
    prompts: int
    unet: int
    pictures: int


SIZES = {
    # 12 of DeepSeek-VL-1.3B's 24 layers, 12 of ViT-L's 24; all that is trained in its own size.
    "half": Sizes(2048, 5632, 16, 12, 32000, 1024, 336, 1024, 1024, 256, 64, 1),
    # The language model of capture.py, the rest smaller in proportion.
    "small": Sizes(384, 1024, 8, 12, 8192, 192, 336, 384, 512, 64, 16, 4),
    "tiny": Sizes(64, 128, 4, 2, 512, 64, 56, 32, 128, 32, 8, 2),
}


def image_processor(view: int, fine: bool) -> tuple[Any, Any]:
    """Return F-LMM's padded square, or LLaVA-Next's own with 2 x 2 tiles; and a byte tokenizer."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
    import tiny_vlms
    from transformers import LlavaNextImageProcessorPil, LlavaNextProcessor

    from inlay.data import HFImageProcessor, PaddedImageProcessor

    tokenizer = tiny_vlms.byte_tokenizer(tokens=("<image>",))
    if not fine:
        mean = (0.48, 0.46, 0.41)
        processor = PaddedImageProcessor(
            tokenizer, image_size=view, patch_size=PATCH, image_mean=mean, image_std=mean
        )
        return processor, tokenizer
    pixels = LlavaNextImageProcessorPil(
        size={"shortest_edge": view},
        crop_size={"height": view, "width": view},
        image_grid_pinpoints=[[2 * view, 2 * view]],
    )
    own = LlavaNextProcessor(
        pixels,
        tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )
    return HFImageProcessor(own, tokenizer), tokenizer


def language_model(sizes: Sizes, image_token: int, fine: bool) -> Any:
    import transformers as hf

    text = hf.LlamaConfig(
        vocab_size=sizes.vocabulary,
        hidden_size=sizes.width,
        intermediate_size=sizes.mlp,
        num_hidden_layers=sizes.layers,
        num_attention_heads=sizes.heads,
        num_key_value_heads=sizes.heads,
        max_position_embeddings=4096,
    )
    eye = hf.CLIPVisionConfig(
        hidden_size=sizes.eye,
        intermediate_size=4 * sizes.eye,
        num_hidden_layers=sizes.layers,
        num_attention_heads=sizes.eye // 64,
        image_size=sizes.view,
        patch_size=PATCH,
    )
    common = {"text_config": text, "vision_config": eye, "image_token_id": image_token}
    if not fine:
        return hf.LlavaForConditionalGeneration(hf.LlavaConfig(**common))
    pins = [[2 * sizes.view, 2 * sizes.view]]
    config = hf.LlavaNextConfig(**common, image_grid_pinpoints=pins)
    return hf.LlavaNextForConditionalGeneration(config)


def sam(sizes: Sizes) -> Any:
    from transformers import SamConfig, SamModel

    layers, width = sizes.layers, sizes.prompts
    vision = {
        "hidden_size": sizes.sam,
        "output_channels": width,
        "num_hidden_layers": layers,
        "num_attention_heads": max(1, sizes.sam // 64),
        "image_size": sizes.side,
        "global_attn_indexes": list(range(layers // 4 - 1, layers, max(1, layers // 4))),
        "num_pos_feats": width // 2,
    }
    prompt = {"hidden_size": width, "image_size": sizes.side}
    decoder = {"hidden_size": width, "mlp_dim": 8 * width, "iou_head_hidden_dim": width}
    return SamModel(
        SamConfig(
            vision_config=vision,
            prompt_encoder_config=prompt,
            mask_decoder_config=decoder,
            initializer_range=0.1,  # else all logits are 0 but for noise
        )
    )


def write_sets(folder: Path, sizes: Sizes, *, square: bool) -> None:
    """Pictures of twice the view's side, and three sets of phrases; masks are made of blocks of
    2 x 2 px, so that F-LMM's shrinking to the view loses nothing and losses can be compared."""
    from PIL import Image
    from pycocotools import mask as coco

    width = 2 * sizes.view
    height = width if square else width * 3 // 4
    draw = np.random.default_rng(0)
    rows: list[list[dict[str, Any]]] = [[] for _ in EXPRESSIONS]
    for number in range(sizes.pictures):
        pixels = draw.integers(0, 255, (12, 16, 3), dtype=np.uint8)
        picture = Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC)
        picture.save(folder / f"{number}.jpg", quality=90)
        for words, found in zip(EXPRESSIONS, rows, strict=True):
            phrases = []
            for word in words:
                top, left = draw.integers(0, height // 4), draw.integers(0, width // 4)
                mask = np.zeros((height // 2, width // 2), np.uint8)
                mask[top : top + height // 5, left : left + width // 5] = 1
                rle = coco.encode(np.asfortranarray(mask.repeat(2, 0).repeat(2, 1)))
                rle["counts"] = rle["counts"].decode()
                phrases.append({"text": word, "segmentation": rle})
            size = {"width": width, "height": height}
            found.append({"image": f"{number}.jpg", **size, "phrases": phrases})
    for number, found in enumerate(rows):
        (folder / f"set{number}.json").write_text(json.dumps(found))
