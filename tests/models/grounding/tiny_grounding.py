"""Tiny random models under ``FrozenGrounding``, with pictures, captions and masks, and the same
weights as F-LMM by the letter (``flmm.py``)."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import transformers as T
from flmm import Case, Original, Size, bilinear
from PIL import Image
from sights import TEXT, VISION, livelier
from tiny_sam import SIDE, tiny_sam
from tiny_vlms import byte_tokenizer
from torch import Tensor
from vision_families import GRIDS, write_family

from inlay.core.types import Batch
from inlay.data import HFImageProcessor, PaddedImageProcessor, SequenceBuilder
from inlay.data.grounding.collate import GroundedSample, collate
from inlay.data.grounding.files import refiner_picture
from inlay.data.pictures import PictureOpener
from inlay.models import (
    DeepSeekVLAdapter,
    FrozenGrounding,
    LLaVANextAdapter,
    SamRefiner,
    UNetHead,
    VisionFinetune,
)

CAPTIONS: list[list[tuple[str, int]]] = [
    [("a red box", 0), (" under", -1), (" sky", 1), (".", -1)],
    [("left", 0)],
    [("they: ", -1), ("a", 2), (" dog", 0), (" or all animals", 1)],
]
SIZES = [(130, 80), (60, 151), (64, 64)]
UPSAMPLED = 20  # no multiple of 8: the U-Net has to pad


@dataclass
class Setup:
    """A frozen model with all that surrounds it.

    Attributes:
        eager: its own copy in transformers, with eager attention.
        maps, cut: as of ``Original``.
    """

    adapter: Any
    eager: Any
    builder: SequenceBuilder
    maps: Callable[[Tensor, Size], Tensor]
    cut: Callable[[Tensor, Size], Tensor]

    def model(self, seed: int = 0, sam: Any = None, **settings: Any) -> FrozenGrounding:
        """Heads of random weights on top, with a tiny SAM unless ``refiner`` says otherwise."""
        torch.manual_seed(seed)
        settings = {"refiner": SamRefiner(sam=copy.deepcopy(sam or tiny_sam()))} | settings
        head = UNetHead(base_channels=4, upsample_input=UPSAMPLED)
        processor = self.builder.image_processor
        model = FrozenGrounding(
            lmm=self.adapter, image_processor=processor, mask_head=head, **settings
        )
        if hasattr(model, "text_layer_weights"):
            torch.nn.init.normal_(model.text_layer_weights)
        return model

    def original(self, model: FrozenGrounding) -> Original:
        """The paper's model with copies of the same weights, which collect gradients of theirs."""
        weights = {
            name: p.detach().clone().requires_grad_()
            for name, p in model.named_parameters()
            if p.requires_grad and not name.startswith("refiner.")
        }
        head = {n.removeprefix("mask_head."): p for n, p in weights.items() if "mask_head" in n}
        return Original(
            lmm=self.eager,
            image_token=self.builder.image_processor.image_token_id,
            maps=self.maps,
            cut=self.cut,
            head=head,
            sam=None if model.refiner is None else tiny_sam(),
            others={n: p for n, p in weights.items() if "mask_head" not in n},
            upsample_input=UPSAMPLED,
            merge=model.merge,
        )

    def cases(self, sizes: Sequence[Size] = SIZES) -> list[Case]:
        """Pictures of different shapes with one to three masks; one of these is empty."""
        found = []
        for number, (size, caption) in enumerate(zip(sizes, CAPTIONS, strict=False)):
            tokens = self.builder.build(size, caption)
            made = self.builder.image_processor.pixels(photo(size, number))
            count = 1 + max(number for _, number in caption)
            mask_ids = [-1] * (len(tokens.ids) - len(tokens.mask_ids)) + tokens.mask_ids.tolist()
            found.append(
                Case(
                    image=photo(size, number),
                    ids=tokens.ids.tolist(),
                    mask_ids=mask_ids,
                    prompt=len(tokens.ids) - len(tokens.mask_ids),
                    masks=blobs(size, count, number),
                    pixels={
                        name: torch.from_numpy(value)
                        for name, value in made.items()
                        if name in ("pixel_values", "image_sizes")
                    },
                )
            )
        found[-1].masks[-1] = 0
        return found

    def batch(self, cases: Sequence[Case], known: Any = None) -> Batch:
        """The cases as the data side hands them over; what ``known`` has is left out."""
        samples = [self.sample(case, known) for case in cases]
        return collate(samples, PictureOpener(self.builder.image_processor))

    def sample(self, case: Case, known: Any = None) -> GroundedSample:
        size, processor = case.image.size, self.builder.image_processor
        caption = [n for n in range(case.prompt, len(case.ids))]
        key = f"{hash(case.image.tobytes()) & (1 << 64) - 1:016x}"
        text_key = f"{hash((key, *case.ids, *case.mask_ids)) & (1 << 64) - 1:016x}"
        cached = (
            known is not None and known.has_text(text_key),
            known is not None and (known.has_image(key)),
        )
        picture = np.zeros((3, 0, 0), np.uint8)
        return GroundedSample(
            tokens=_tokens(case, caption),
            size=size,
            views=processor.views(*size),
            masks=case.masks.numpy(),
            pixels=None if cached[0] else processor.pixels(case.image),
            tiles=processor.plan(*size).tiles,
            picture=picture if cached[1] else refiner_picture(case.image, SIDE),
            picture_key=key,
            text_key=text_key,
        )


def _tokens(case: Case, caption: list[int]) -> Any:
    from inlay.data.grounding.sequence import CaptionTokens

    return CaptionTokens(
        np.array(case.ids, np.int32),
        np.array(caption, np.int64),
        np.array([case.mask_ids[n] for n in caption], np.int64),
    )


def photo(size: Size, seed: int) -> Image.Image:
    """Large soft patches of colour."""
    draw = np.random.default_rng(seed)
    small = Image.fromarray(draw.integers(0, 255, (5, 6, 3), dtype=np.uint8))
    return small.resize(size, Image.Resampling.BICUBIC)


def blobs(size: Size, count: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    rough = torch.randn(1, count, 4, 4, generator=generator)
    return (bilinear(rough, size[::-1])[0] > 0.2).to(torch.uint8)


def deepseek() -> Setup:
    """DeepSeek-VL with pictures padded to squares of 8 x 8 tokens."""
    tokenizer = byte_tokenizer(tokens=("<image_placeholder>",))
    processor = PaddedImageProcessor(
        tokenizer,
        image_size=32,
        patch_size=4,
        min_size=1,
        image_token="<image_placeholder>",
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
    )
    config = T.DeepseekVLConfig(
        text_config=T.LlamaConfig(**TEXT | {"vocab_size": len(tokenizer)}),
        vision_config=T.SiglipVisionConfig(**VISION | {"image_size": 32}),
        image_token_id=processor.image_token_id,
    )

    def cut(logits: Tensor, size: Size) -> Tensor:
        side = logits.shape[0]
        width, height = (int(px / max(size) * 32) for px in size)
        top, left = (int((32 - px) // 2 * side / 32) for px in (height, width))
        rows, columns = (int(px * side / 32 + 0.5) for px in (height, width))
        return logits[top : top + rows, left : left + columns]

    builder = SequenceBuilder(
        tokenizer, processor, template={"INSTRUCTION": "User: {input}\n\nAssistant:"}
    )
    models = _twice(config)
    return Setup(
        DeepSeekVLAdapter(VisionFinetune(models[0], use_activation_checkpointing=False)),
        models[1],
        builder,
        lambda columns, size: columns.unflatten(-1, (8, 8)),
        cut,
    )


def llava_next(folder: Path) -> Setup:
    """LLaVA-Next: 4 x 4 coarse tokens, then rows of fine ones, each with a newline behind it."""
    byte_tokenizer().save_pretrained(folder / "words")
    processor = HFImageProcessor(write_family("llava_next", folder / "words", folder / "model"))
    token = processor.image_token_id
    config = T.LlavaNextConfig(
        text_config=T.LlamaConfig(**TEXT | {"vocab_size": token + 1}),
        vision_config=T.CLIPVisionConfig(**VISION | {"image_size": 56, "patch_size": 14}),
        image_token_id=token,
        image_grid_pinpoints=GRIDS["image_grid_pinpoints"],
    )
    models = _twice(config)

    def maps(columns: Tensor, size: Size) -> Tensor:
        coarse = columns[:, :16].unflatten(-1, (4, 4))
        fine = FINE[size]
        with_newlines = columns[:, 16:].unflatten(-1, (fine[0], fine[1] + 1))
        resized = F.interpolate(coarse[None], size=fine, mode="bilinear")[0]
        return torch.cat([resized, with_newlines[..., :-1]])

    tokenizer = processor.processor.tokenizer
    return Setup(
        LLaVANextAdapter(VisionFinetune(models[0], use_activation_checkpointing=False)),
        models[1],
        SequenceBuilder(tokenizer, processor, template={"INSTRUCTION": "USER: {input} ASSISTANT:"}),
        maps,
        lambda logits, size: logits,
    )


FINE: dict[Size, Size] = {(130, 80): (4, 8), (60, 151): (10, 4), (64, 64): (8, 8)}
"""Rows and columns of fine tokens: tiles of 2 x 2, 3 x 1 and 2 x 2 without their padding, whose
``int((rows - int(80 * 8 / 130)) / 2)`` rows on both sides (130 x 80) are cut off."""


def _twice(config: Any) -> tuple[Any, Any]:
    """A model, and the same with eager attention."""
    torch.manual_seed(0)
    kind = T.AutoModelForImageTextToText
    model = livelier(kind.from_config(copy.deepcopy(config))).eval()
    eager = kind.from_config(config, attn_implementation="eager").eval()
    eager.load_state_dict(model.state_dict())
    return model, eager
