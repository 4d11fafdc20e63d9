"""InternLM2's tokenizer, from the SentencePiece file that its checkpoints come with."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, normalizers
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerFast
from transformers.models.auto import tokenization_auto

from inlay.models.sentencepiece_file import (
    CONTROL,
    NORMAL,
    UNKNOWN,
    USER_DEFINED,
    read_sentencepiece_file,
)

CHATML = {
    "[UNUSED_TOKEN_141]": "<|plugin|>",
    "[UNUSED_TOKEN_142]": "<|interpreter|>",
    "[UNUSED_TOKEN_143]": "<|action_end|>",
    "[UNUSED_TOKEN_144]": "<|action_start|>",
    "[UNUSED_TOKEN_145]": "<|im_end|>",
    "[UNUSED_TOKEN_146]": "<|im_start|>",
}
"""Spare pieces that chat has taken (ids 92538 to 92543). Folders of the first release do not say so
in their ``tokenizer_config.json``."""

DEFAULTS = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "</s>"}


class InternLM2Tokenizer(PreTrainedTokenizerFast):
    """A fast tokenizer, built from ``tokenizer.model`` where there is no ``tokenizer.json``.

    It begins a text with BOS, as the published one does. What it saves is a plain fast tokenizer,
    which opens without this class.
    """

    @classmethod
    def convert_to_native_format(
        cls, trust_remote_code: bool = False, **kwargs: Any
    ) -> dict[str, Any]:
        """Called by ``from_pretrained`` with the files that it found.

        Raises:
            ModelError: the SentencePiece file is damaged or of another kind.
        """
        kwargs = {**DEFAULTS, **{k: v for k, v in kwargs.items() if v is not None}}
        kwargs.pop("auto_map", None)
        file = kwargs.get("vocab_file")
        if kwargs.get("tokenizer_file") or not file:
            return super().convert_to_native_format(**kwargs)
        names = {number: str(token) for number, token in kwargs["added_tokens_decoder"].items()}
        kwargs["tokenizer_object"] = read_sentencepiece(file, names)
        kwargs.setdefault("add_bos_token", True)
        return kwargs

    def save_pretrained(self, save_directory: Any, *args: Any, **kwargs: Any) -> Any:
        saved = super().save_pretrained(save_directory, *args, **kwargs)
        file = Path(save_directory) / "tokenizer_config.json"
        config = json.loads(file.read_text("utf-8"))
        config["tokenizer_class"] = "PreTrainedTokenizerFast"
        text = json.dumps(config, indent=2, sort_keys=True, ensure_ascii=False)
        file.write_text(text + "\n", "utf-8")
        return saved


def register_tokenizer() -> None:
    """Let ``AutoTokenizer`` find the class by its name.

    Not through ``AutoTokenizer.register``: of a class that goes by the model's config, the folder's
    own code would still win with ``trust_remote_code=True``.
    """
    name = InternLM2Tokenizer.__name__
    tokenization_auto.REGISTERED_TOKENIZER_CLASSES[name] = InternLM2Tokenizer
    tokenization_auto.TOKENIZER_MAPPING_NAMES["internlm2"] = name


def read_sentencepiece(file: str | Path, names: Mapping[int, str]) -> Tokenizer:
    """Build a tokenizer that gives the ids of a SentencePiece BPE model.

    Args:
        names: what pieces are called instead of their name in the file, by id.

    Raises:
        ModelError: the file is damaged or of another kind.
    """
    model = read_sentencepiece_file(file)
    pieces = [names.get(i) or CHATML.get(piece, piece) for i, piece in enumerate(model.pieces)]
    rows = list(zip(pieces, model.kinds, model.scores, strict=True))
    tokenizer = Tokenizer(
        BPE(
            {piece: number for number, piece in enumerate(pieces)},
            _merges({piece: score for piece, kind, score in rows if kind == NORMAL}),
            unk_token=pieces[model.kinds.index(UNKNOWN)],
            fuse_unk=True,
            byte_fallback=model.byte_fallback,
        )
    )
    steps: list[Any] = [normalizers.Precompiled(model.charsmap)] if model.charsmap else []
    back: list[Any] = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    if model.dummy_prefix:
        steps.append(normalizers.Prepend("▁"))
        back.append(decoders.Strip(content=" ", left=1))
    tokenizer.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(back)
    tokenizer.add_tokens(_whole_tokens(pieces, model.kinds, {*names.values(), *CHATML.values()}))
    return tokenizer


def _whole_tokens(pieces: list[str], kinds: list[int], chat: set[str]) -> list[AddedToken]:
    """Pieces that are found in a text as they stand; of these, user-defined ones are plain text."""
    found = []
    for piece, kind in zip(pieces, kinds, strict=True):
        special = kind in (UNKNOWN, CONTROL) or piece in chat
        if special or kind == USER_DEFINED:
            found.append(AddedToken(piece, normalized=False, special=special))
    return found


def _merges(scores: Mapping[str, float]) -> list[tuple[str, str]]:
    """Pairs of pieces that make a piece, in the order in which SentencePiece joins them: best score
    first. Control, byte and user-defined pieces take no part."""
    pairs = []
    for piece, score in scores.items():
        for cut in range(1, len(piece)):
            left, right = piece[:cut], piece[cut:]
            if left in scores and right in scores:
                pairs.append((-score, cut, left, right))
    return [(left, right) for *_, left, right in sorted(pairs)]
