"""A named template written as Jinja renders the text that training saw."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import AutoTokenizer

from inlay.convert.jinja import chat_template
from inlay.core.types import Conversation, Message
from inlay.data.chat import ChatEncoder
from inlay.data.templates import PROMPT_TEMPLATE

CHATS = [
    [("user", "hi")],
    [("system", 'Be {input} {{ 1 }} "brief"'), ("user", "a\nb"), ("assistant", "你好 \\n")],
    [
        ("system", "S"),
        ("user", "one"),
        ("user", " more"),
        ("assistant", "1"),
        ("system", "T"),
        ("user", "two"),
        ("assistant", "2"),
        ("user", "three"),
    ],
]


@pytest.mark.parametrize("bos", [None, "<|im_start|>"])
@pytest.mark.parametrize("name", PROMPT_TEMPLATE)
def test_it_renders_what_training_saw(tiny_tokenizer: Path, name: str, bos: str | None) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_tokenizer)
    if bos:
        tokenizer.bos_token = bos
    template = PROMPT_TEMPLATE[name]
    encoder = ChatEncoder(tokenizer, template)
    tokenizer.chat_template = chat_template(template, bos or "", tokenizer.eos_token)
    for chat in CHATS:
        text = tokenizer.apply_chat_template(
            [{"role": role, "content": content} for role, content in chat], tokenize=False
        )
        messages = [Message(role, content) for role, content in chat]
        if chat[-1][0] == "user":
            ids = encoder.prompt_ids(messages)
        else:
            ids = encoder.encode([Conversation(messages)])[0].ids.tolist()
        assert text == tokenizer.decode(ids)
