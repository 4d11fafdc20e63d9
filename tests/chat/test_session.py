"""Sessions: prompts as trained, greedy text as recorded, seeds, stops, history and its limit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from inlay.chat.session import ChatSession
from inlay.core.errors import ModelError
from inlay.core.types import Message
from inlay.data.chat import ChatEncoder
from inlay.data.templates import PROMPT_TEMPLATE


@pytest.fixture
def tiny(tiny_model: Path) -> tuple[Any, Any]:
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    return model, AutoTokenizer.from_pretrained(tiny_model)


def script(model: Any, monkeypatch: pytest.MonkeyPatch, ids: list[int]) -> list[list[int]]:
    """Make the model say ``ids``; return the list that will hold the prompts it was given."""
    prompts: list[list[int]] = []

    def forward(input_ids: torch.Tensor, **kwargs: Any) -> Any:
        first = input_ids.shape[1] > 1
        if first:
            prompts.append(input_ids[0].tolist())
            script.position = 0
        logits = torch.full((1, 1, model.config.vocab_size), -1e4)
        logits[0, 0, ids[script.position % len(ids)]] = 0.0
        script.position += 1
        return type(out)(logits=logits, past_key_values=kwargs.get("past_key_values"))

    with torch.no_grad():
        out = model(torch.tensor([[1, 2]]))
    monkeypatch.setattr(model, "forward", forward)
    return prompts


@pytest.mark.shared
@pytest.mark.parametrize("start", ["", "Once", "Once upon a time, there was a", "Once upon a time"])
def test_greedy_text_is_the_recorded_one(shared_data: Path, start: str) -> None:
    folder = shared_data / "models" / "stories260k"
    recorded = (folder / "greedy_from_bos.txt").read_text("utf-8")
    model = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    longest = len(tokenizer(recorded).input_ids) - len(tokenizer(start).input_ids)
    session = ChatSession(model, tokenizer, temperature=0, max_new_tokens=longest)
    pieces: list[str] = []
    answer = session.reply(start, pieces.append)
    assert start + answer == recorded
    assert "".join(pieces) == answer


def test_prompt_tokens_are_those_of_training(
    tiny: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, tokenizer = tiny
    answer = [*tokenizer("yes").input_ids, tokenizer.eos_token_id]
    prompts = script(model, monkeypatch, answer)
    session = ChatSession(model, tokenizer, PROMPT_TEMPLATE.qwen_chat, system="Be {brief}.")
    assert session.reply("one?") == "yes"
    assert session.reply("two?") == "yes"
    history = [
        Message("system", "Be {brief}."),
        Message("user", "one?"),
        Message("assistant", "yes"),
        Message("user", "two?"),
    ]
    encoder = ChatEncoder(tokenizer, PROMPT_TEMPLATE.qwen_chat)
    assert prompts == [encoder.prompt_ids(history[:2]), encoder.prompt_ids(history)]
    session.reset()
    assert session.history == history[:1]


def test_stop_words_and_stop_tokens(tiny: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    model, tokenizer = tiny
    script(model, monkeypatch, tokenizer("yes. no<|endoftext|>never").input_ids)
    assert ChatSession(model, tokenizer, stop_words=[". "]).reply("?") == "yes"
    # a stop word that is one special token is never seen in the text: it stops as a token
    assert ChatSession(model, tokenizer, stop_words=["<|endoftext|>"]).reply("?") == "yes. no"


def test_seeds(tiny: tuple[Any, Any]) -> None:
    def answers(seed: int) -> list[str]:
        session = ChatSession(
            *tiny, temperature=1.0, top_k=0, top_p=1.0, max_new_tokens=12, seed=seed
        )
        return [session.reply("hello") for _ in range(2)]

    state = torch.get_rng_state()
    first = answers(1)
    torch.rand(3)
    assert answers(1) == first
    assert answers(2) != first
    torch.set_rng_state(state)
    expected = torch.rand(1)
    torch.set_rng_state(state)
    answers(1)
    assert torch.equal(torch.rand(1), expected), "the process's random state was changed"


def test_history_is_dropped_at_the_context_limit(
    tiny: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, tokenizer = tiny
    script(model, monkeypatch, tokenizer("x").input_ids)
    notices: list[str] = []
    session = ChatSession(model, tokenizer, system="S", on_notice=notices.append)
    answer = session.reply("fill it")
    prompt = len(session.encoder.prompt_ids([Message("system", "S"), Message("user", "fill it")]))
    assert len(answer) == 512 - prompt
    assert session.history == [Message("system", "S")]
    assert len(notices) == 1 and "512" in notices[0]

    session.max_new_tokens = 4
    session.reply("y" * 200)
    session.reply("y" * 300)  # does not fit behind the first
    assert len(notices) == 2
    assert [len(m.content) for m in session.history] == [1, 300, 4]
    with pytest.raises(ModelError, match=r"no room.*512"):
        session.reply("y" * 600)


def test_an_interrupted_answer_is_remembered(
    tiny: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, tokenizer = tiny
    script(model, monkeypatch, tokenizer("abcdef").input_ids)
    session = ChatSession(model, tokenizer)

    def press(piece: str) -> None:
        if piece == "c":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        session.reply("?", press)
    assert session.history == [Message("user", "?"), Message("assistant", "abc")]


def test_completion_keeps_no_history_and_takes_no_system(tiny: tuple[Any, Any]) -> None:
    model, tokenizer = tiny
    tokenizer.chat_template = None
    session = ChatSession(model, tokenizer, temperature=0, max_new_tokens=4)
    assert session.completes
    assert session.reply("abc") == session.reply("abc")
    assert session.history == []
    session.reply("")  # starts from EOS: this tokenizer has no BOS
    with pytest.raises(ModelError, match="prompt-template"):
        ChatSession(model, tokenizer, system="S")
