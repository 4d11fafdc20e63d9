"""Tiny tokenizers with any chat template, a way to show a loss mask, pictures and eyes for them."""

from __future__ import annotations

import itertools
import string
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from inlay.core.types import ImagePlan, Sample


@pytest.fixture(scope="session")
def make_tokenizer() -> Callable[..., Any]:
    """``make(template, special, eos, bos, sentencepiece)``: one token per byte or character, and
    one per special token. ``sentencepiece`` marks words and the start of a text as Llama 2 does."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    def make(
        template: str | None = None,
        special: tuple[str, ...] = (),
        eos: str | None = "</s>",
        bos: str | None = "<s>",
        sentencepiece: bool = False,
    ) -> Any:
        if sentencepiece:
            characters = [f"<0x{i:02X}>" for i in range(256)] + ["▁", *string.printable[:95]]
            vocab = {c: i for i, c in enumerate(dict.fromkeys(characters))}
            merges = [("▁", c) for c in string.ascii_letters]
            for left, right in merges:
                vocab[left + right] = len(vocab)
            tokenizer = Tokenizer(models.BPE(vocab, merges, byte_fallback=True))
            tokenizer.normalizer = normalizers.Sequence(
                [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
            )
            steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
            tokenizer.decoder = decoders.Sequence(steps)
        else:
            letters = sorted(pre_tokenizers.ByteLevel.alphabet())
            tokenizer = Tokenizer(models.BPE({c: i for i, c in enumerate(letters)}, []))
            tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
            tokenizer.decoder = decoders.ByteLevel()
        fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=eos, bos_token=bos)
        fast.add_tokens(list(special), special_tokens=True)
        fast.chat_template = template
        return fast

    return make


@pytest.fixture(scope="session")
def marked() -> Callable[[Any, Sample], str]:
    """``marked(tokenizer, sample)``: the sample's text, trained stretches between « and »."""

    def show(tokenizer: Any, sample: Sample) -> str:
        assert len(sample.ids) == len(sample.mask)
        assert sample.ids.dtype == np.int32
        assert sample.mask.dtype == np.bool_
        parts = []
        pairs = zip(sample.mask.tolist(), sample.ids.tolist(), strict=True)
        for trained, group in itertools.groupby(pairs, key=lambda pair: pair[0]):
            text = tokenizer.decode([token for _, token in group])
            parts.append(f"«{text}»" if trained else text)
        return "".join(parts)

    return show


class Eyes:
    """An image processor: 4 tokens for a picture, and an end token; 8 in two tiles above 64 px.

    Pixels are float32 ``[tiles, 3]``: the mean colour, and a draw from the seed in the last row.
    """

    image_token = "<image>"

    def __init__(self, tokenizer: Any, placeholder: str | None = None, version: str = "") -> None:
        tokenizer.add_tokens([self.image_token, "</image>"], special_tokens=True)
        self.image_token_id, self.end = tokenizer.convert_tokens_to_ids(["<image>", "</image>"])
        self.placeholder = placeholder
        self.version = version

    def plan(self, width: int, height: int, index: int = 0, count: int = 1) -> ImagePlan:
        if width > 20 * height:
            raise ValueError("too flat")
        tiles = 2 if width > 64 else 1
        ids = (self.image_token_id,) * (4 * tiles) + (self.end,)
        return ImagePlan(f"<{index}>" if count > 1 else "", ids, tiles)

    def pixels(self, image: Any, seed: int = 0) -> dict[str, np.ndarray]:
        colour = np.asarray(image, np.float32).mean((0, 1))
        tiles = 2 if image.width > 64 else 1
        draw = np.random.default_rng(seed).random(3, np.float32)
        return {"pixel_values": np.stack([colour, draw][:tiles])}

    def identity(self) -> str:
        return f"eyes {self.version}"


@pytest.fixture(scope="session")
def make_eyes() -> type[Eyes]:
    """``make(tokenizer, placeholder, version)``: a tiny image processor."""
    return Eyes


@pytest.fixture(scope="session")
def draw() -> Callable[..., str]:
    """``draw(path, width, height, colour)``: a PNG of one colour; its name is returned."""
    from PIL import Image

    def make(path: Path, width: int = 8, height: int = 8, colour: Any = "red") -> str:
        Image.new("RGB", (width, height), colour).save(path)
        return path.name

    return make
