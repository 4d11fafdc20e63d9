"""InternLM2's tokenizer against SentencePiece itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import sentencepiece
from tiny_internlm2 import CHAT, SPARE, TEMPLATE, write_sentencepiece, write_tokenizer

from inlay.core.errors import ModelError
from inlay.models.internlm2_tokenizer import InternLM2Tokenizer, read_sentencepiece

TEXTS = [
    "The quick brown fox",
    " leading and trailing  ",
    "two  spaces,   three    four",
    "tabs\tand\nnew\n\nlines\r\n",
    "def f(x):\n    return x ** 2  # 注释",
    "今天天气很好，我们去公园。",
    "混合 mixed 文本 text 123",
    "emoji 🙂👩‍👩‍👧 and bytes \u0085 ñ ß ﬁ",
    "▁ is a space to SentencePiece",
    "",
    "\n",
    "a",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(path)
    return path


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> Any:
    return InternLM2Tokenizer.from_pretrained(folder)


def test_ids_are_those_of_sentencepiece(folder: Path, tokenizer: Any) -> None:
    reference = sentencepiece.SentencePieceProcessor(str(folder / "tokenizer.model"))
    for text in TEXTS:
        expected = reference.encode(text)
        assert tokenizer(text).input_ids == [1, *expected], text
        assert tokenizer(text, add_special_tokens=False).input_ids == expected
        if "▁" not in text:
            assert tokenizer.decode(expected) == text == reference.decode(expected)
    assert len(tokenizer) == reference.vocab_size()
    assert any(0x03 <= i < 0x103 for i in reference.encode("🙂"))  # bytes


def test_a_dummy_prefix_is_followed(tmp_path: Path) -> None:
    write_sentencepiece(tmp_path / "tokenizer.model", dummy_prefix=True)
    reference = sentencepiece.SentencePieceProcessor(str(tmp_path / "tokenizer.model"))
    ours = read_sentencepiece(tmp_path / "tokenizer.model", {})
    for text in TEXTS:
        assert ours.encode(text).ids == reference.encode(text), text
    assert ours.decode(ours.encode(" two words").ids) == " two words"


def test_chat_tokens_take_the_spare_pieces(folder: Path, tokenizer: Any) -> None:
    first = len(tokenizer) - len(CHAT)
    for place, name in enumerate(CHAT):
        assert tokenizer.convert_tokens_to_ids(f"<|{name}|>") == first + place
    assert tokenizer.convert_ids_to_tokens([0, 1, 2]) == ["<unk>", "<s>", "</s>"]
    ids = tokenizer("<|im_start|>user\n你是谁？<|im_end|>\n", add_special_tokens=False).input_ids
    assert (ids[0], ids[-2]) == (first + 5, first + 4)
    reference = sentencepiece.SentencePieceProcessor(str(folder / "tokenizer.model"))
    assert ids[1:-2] == reference.encode("user\n你是谁？")
    assert tokenizer.decode(ids, skip_special_tokens=True) == "user\n你是谁？\n"
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (1, 2, 2)


def test_the_first_release_named_no_chat_tokens(
    folder: Path, tmp_path: Path, tokenizer: Any
) -> None:
    write_tokenizer(tmp_path, with_chat_tokens=False)
    first = InternLM2Tokenizer.from_pretrained(tmp_path)
    assert first.get_vocab() == tokenizer.get_vocab()
    assert first("<|im_start|>a").input_ids == tokenizer("<|im_start|>a").input_ids
    (tmp_path / "tokenizer_config.json").unlink()
    alone = InternLM2Tokenizer.from_pretrained(tmp_path)
    assert alone("<|im_start|>a").input_ids == tokenizer("<|im_start|>a").input_ids
    assert (alone.pad_token, alone.eos_token) == ("</s>", "</s>")


def test_the_chat_template_is_the_published_one(tokenizer: Any) -> None:
    assert tokenizer.chat_template == TEMPLATE
    talk = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yo"}]
    text = tokenizer.apply_chat_template(talk, tokenize=False)
    assert text == "<s><|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\nyo<|im_end|>\n"


def test_what_it_saves_opens_without_it(tokenizer: Any, tmp_path: Path) -> None:
    from transformers import PreTrainedTokenizerFast

    tokenizer.save_pretrained(tmp_path)
    assert "InternLM2" not in (tmp_path / "tokenizer_config.json").read_text()
    for other in (PreTrainedTokenizerFast, InternLM2Tokenizer):
        back = other.from_pretrained(tmp_path)
        for text in [*TEXTS, "<|im_start|>user\nhi<|im_end|>"]:
            assert back(text).input_ids == tokenizer(text).input_ids
        assert back.get_vocab() == tokenizer.get_vocab()
        assert back.chat_template == TEMPLATE


@pytest.mark.parametrize("content", [b"", b"\x80\x04pickle", b"not a model at all"])
def test_a_damaged_file_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "tokenizer.model").write_bytes(content)
    with pytest.raises(ModelError, match=r"tokenizer\.model"):
        InternLM2Tokenizer.from_pretrained(tmp_path)


def test_spare_pieces_that_nothing_took_stay_text(tmp_path: Path) -> None:
    write_sentencepiece(tmp_path / "tokenizer.model")
    ours = read_sentencepiece(tmp_path / "tokenizer.model", {})
    assert ours.token_to_id("<|im_end|>") is not None
    assert all(ours.token_to_id(name) is None for name in SPARE)
