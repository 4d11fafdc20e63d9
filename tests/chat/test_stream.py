"""Streaming: whole characters only, stop words never shown, pieces join to the decoded text."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import AutoTokenizer

from inlay.chat.stream import TextStream

TEXT = "héllo 你好，世界 🙂👩‍👩‍👧  two  spaces\nnew line"


def feed(stream: TextStream, ids: list[int]) -> str:
    for token in ids:
        if stream.push(token):
            break
    return stream.finish()


def test_pieces_are_whole_characters(tiny_tokenizer: Path) -> None:
    """The tiny tokenizer has one token per byte: every character but ASCII is split."""
    tokenizer = AutoTokenizer.from_pretrained(tiny_tokenizer)
    pieces: list[str] = []
    text = feed(TextStream(tokenizer, on_text=pieces.append), tokenizer(TEXT).input_ids)
    assert text == TEXT
    assert "".join(pieces) == TEXT
    assert len(pieces) > 30
    assert not any("\ufffd" in piece for piece in pieces)


@pytest.mark.shared
def test_sentencepiece_spaces_and_bytes(shared_data: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(shared_data / "models" / "stories260k")
    ids = tokenizer(TEXT, add_special_tokens=False).input_ids
    assert feed(TextStream(tokenizer), ids) == TEXT
    words = tokenizer("Once upon a time", add_special_tokens=False).input_ids
    continued = TextStream(tokenizer, context=words[:2])
    prefix = tokenizer.decode(words[:2])
    assert prefix + feed(continued, words[2:]) == "Once upon a time"


def test_an_unfinished_character_at_the_end_is_given_out(tiny_tokenizer: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_tokenizer)
    ids = tokenizer("a你").input_ids
    assert feed(TextStream(tokenizer), ids[:-1]) == "a\ufffd"


@pytest.mark.parametrize(
    ("text", "words", "expected"),
    [
        ("one<stop>two", ["<stop>"], "one"),
        ("one<stop>two", ["two", "<st"], "one"),
        ("one<sto", ["<stop>"], "one<sto"),
        ("one<st<stop>", ["<stop>"], "one<st"),
        ("你<好>", ["<好>"], "你"),
    ],
)
def test_stop_words(tiny_tokenizer: Path, text: str, words: list[str], expected: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_tokenizer)
    pieces: list[str] = []
    stream = TextStream(tokenizer, words, on_text=pieces.append)
    assert feed(stream, tokenizer(text).input_ids) == expected
    assert "".join(pieces) == expected
