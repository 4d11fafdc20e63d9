"""Every image processor with a tiny real vision model behind it, attention silenced.

What ``encode`` gives in place of an image token depends on that token's own patches alone, so that
its gradient tells which pixels the token is made of.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sights
import tiny_vlms
import torch
import transformers as T
import vision_families
from torch import Tensor

from inlay.core.types import ImagePlan
from inlay.data import (
    HFImageProcessor,
    PaddedImageProcessor,
    SquareImageProcessor,
    TiledImageProcessor,
)
from inlay.data.vision.hf_processor import load_processor
from inlay.models import LLaVAModel
from inlay.models.families import family_of
from inlay.models.picture_row import Pictures

ATTENTION_OUT = re.compile(r"(out_proj|projection_layer|attn\.proj)\.(weight|bias)$")
CLIP = {"image_mean": [0.48, 0.46, 0.41], "image_std": [0.27, 0.26, 0.28]}

Encode = Callable[[list[ImagePlan], dict[str, Tensor]], Tensor]


@dataclass
class Case:
    """A processor, and the features ``[K, D]`` that take the place of its image tokens."""

    processor: Any
    encode: Encode
    tolerance: float = 0.1  # of a token's side, on the finest level


def apart(model: torch.nn.Module) -> Any:
    """The model with attention that adds nothing: every patch keeps to itself."""
    silenced = 0
    for name, parameter in model.named_parameters():
        if ATTENTION_OUT.search(name):
            torch.nn.init.zeros_(parameter)
            silenced += 1
    assert silenced
    return model.eval()


class Caught(Exception):
    """Carries what the language model would have been given."""


def through_the_library(processor: Any, model: Any) -> Encode:
    """The embeddings at the image tokens' places, as transformers' own model puts them there."""
    inner = model.model
    decoder = getattr(inner, "language_model", None) or inner.text_model

    def catch(module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        raise Caught(kwargs["inputs_embeds"])

    decoder.register_forward_pre_hook(catch, with_kwargs=True)
    token = processor.image_token_id

    def encode(plans: list[ImagePlan], images: dict[str, Tensor]) -> Tensor:
        is_image = torch.tensor([i == token for plan in plans for i in (*plan.ids, 1)])
        counts = torch.tensor([plan.ids.count(token) for plan in plans])
        images = {"num_rows": torch.ones_like(counts), "num_tokens": counts, **images}
        inputs = Pictures(images).inputs(family_of(model.config), torch.float32, 0, len(plans))
        takes = inspect.signature(inner.forward).parameters
        for name in takes.keys() & {"mm_token_type_ids", "token_type_ids"}:
            inputs[name] = is_image.long()[None]
        try:
            inner(input_ids=torch.where(is_image, token, 1)[None], **inputs)
        except Caught as caught:
            embeds: Tensor = caught.args[0]
            return embeds[0][is_image]
        raise AssertionError("the language model was not called")

    return encode


def fitted(name: str, processor: Any, **settings: Any) -> Any:
    """A tiny model of a family, its attention silenced."""
    vocab_size = processor.image_token_id + 1
    return apart(vision_families.fitted(name, processor, vocab_size, **settings))


def of_family(name: str, tokenizer: Path, folder: Path) -> Case:
    processor = HFImageProcessor(vision_families.write_family(name, tokenizer, folder))
    # its border tokens may be half padding, see ``hf_views``
    tolerance = 0.5 if name == "llava_next" else 0.1
    return Case(processor, through_the_library(processor, fitted(name, processor)), tolerance)


def paligemma(tokenizer: Path, folder: Path) -> Case:
    images = T.SiglipImageProcessorPil(size=vision_families.SQUARE)
    images.image_seq_length = 16
    words = T.AutoTokenizer.from_pretrained(tokenizer)
    words.bos_token = "<bos>"
    processor = HFImageProcessor(T.PaliGemmaProcessor(images, words))
    return Case(processor, through_the_library(processor, fitted("paligemma", processor)))


def llava(changed: dict[str, Any], **settings: Any) -> Callable[[Path, Path], Case]:
    """LLaVA with its image processor or itself set otherwise."""

    def build(tokenizer: Path, folder: Path) -> Case:
        theirs = load_processor(vision_families.write_family("llava", tokenizer, folder))
        for key, value in changed.items():
            setattr(theirs.image_processor, key, value)
        for key, value in settings.items():
            setattr(theirs, key, value)
        processor = HFImageProcessor(theirs)
        model = fitted("llava", processor, **settings)
        return Case(processor, through_the_library(processor, model))

    return build


def fewer(tokenizer: Path, folder: Path) -> Case:
    """LLaVA-OneVision with a picture of more fine tokens than it lets through."""
    theirs = load_processor(vision_families.write_family("llava_onevision", tokenizer, folder))
    theirs.vision_aspect_ratio = "anyres_max_1"
    processor = HFImageProcessor(theirs)
    model = fitted("llava_onevision", processor, vision_aspect_ratio="anyres_max_1")
    return Case(processor, through_the_library(processor, model), tolerance=0.5)


def bounded(tokenizer: Path, folder: Path) -> Case:
    """A picture made smaller before its processor sees it."""
    theirs = vision_families.write_family("internvl", tokenizer, folder)
    processor = HFImageProcessor(theirs, max_pixels=60 * 50)
    model = fitted("internvl", processor)
    return Case(processor, through_the_library(processor, model))


def hybrid(tokenizer: Path, folder: Path) -> Case:
    """DeepSeek-VL's hybrid with F-LMM's own preparation."""
    words = T.AutoTokenizer.from_pretrained(tokenizer)
    processor = PaddedImageProcessor(
        words, image_size=56, patch_size=14, high_resolution=112, **CLIP
    )
    model = fitted("deepseek_vl_hybrid", processor)
    return Case(processor, through_the_library(processor, model))


def own(
    encoder: Callable[[Path], Path],
    make: Callable[[Any, Path], Any],
    projector: str = "mlp",
    factor: int = 1,
) -> Callable[[Path, Path], Case]:
    """An image processor of ours before a model of ours."""

    def build(tokenizer: Path, folder: Path) -> Case:
        path = encoder(folder)
        processor = make(T.AutoTokenizer.from_pretrained(tokenizer), path)
        kind = T.CLIPVisionModel if encoder is tiny_vlms.clip else T.SiglipVisionModel
        model = LLaVAModel(
            sights.llama(),
            apart(sights.livelier(kind.from_pretrained(path))),
            projector=projector,
            pixel_shuffle_factor=factor,
        )

        def encode(plans: list[ImagePlan], images: dict[str, Tensor]) -> Tensor:
            return model.encode(images["pixel_values"]).flatten(0, 1)

        return Case(processor, encode)

    return build


def tiled(**settings: Any) -> Callable[[Any, Path], Any]:
    return lambda words, path: TiledImageProcessor(
        words, path, pixel_shuffle_factor=2, max_image_size=256, **settings
    )


CASES: dict[str, Callable[[Path, Path], Case]] = {
    **{
        name: lambda words, folder, name=name: of_family(name, words, folder)
        for name in vision_families.FAMILIES
    },
    "paligemma": paligemma,
    "llava padded": llava({"do_pad": True}),
    "llava with its class token": llava({}, vision_feature_select_strategy="full"),
    "llava_onevision, fewer tokens": fewer,
    "internvl bounded": bounded,
    "square, centre": own(tiny_vlms.clip, SquareImageProcessor),
    "square, padded": own(
        tiny_vlms.clip, lambda words, path: SquareImageProcessor(words, path, pad_to_square=True)
    ),
    "square, squeezed": own(
        tiny_vlms.siglip,
        lambda words, path: SquareImageProcessor(words, path, pixel_shuffle_factor=2),
        "pixel_shuffle",
        2,
    ),
    "tiled": own(tiny_vlms.siglip, tiled(), "pixel_shuffle", 2),
    "tiles alone": own(tiny_vlms.siglip, tiled(global_view=False), "pixel_shuffle", 2),
    "padded": own(
        tiny_vlms.clip,
        lambda words, _: PaddedImageProcessor(words, image_size=56, patch_size=14, **CLIP),
    ),
    "padded, patches left over": own(
        tiny_vlms.siglip,
        lambda words, _: PaddedImageProcessor(
            words, image_size=70, patch_size=8, pixel_shuffle_factor=2, **CLIP
        ),
        "pixel_shuffle",
        2,
    ),
    "padded hybrid": hybrid,
}
