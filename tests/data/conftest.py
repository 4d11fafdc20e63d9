"""Tiny tokenizers with any special tokens and chat template, and a way to show a loss mask."""

from __future__ import annotations

import itertools
import string
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from inlay.core.types import Sample


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
