"""Turns (system, input, output) and messages: two views of one conversation.

Named templates and XTuner's own row format work in turns, chat templates in messages.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from inlay.core.errors import DataError
from inlay.core.types import Conversation, Message


@dataclass(slots=True)
class Turn:
    """One exchange; ``output`` is None where the answer is still to be written."""

    system: str
    input: str
    output: str | None
    trained: bool = True


def to_turns(messages: Iterable[Message]) -> list[Turn]:
    """Group messages into turns, each closed by an assistant message.

    User texts before one answer are joined without a separator, and of several system texts
    before it the last counts. What follows the last answer becomes an open turn.

    Raises:
        DataError: a tool message, which turns cannot hold.
    """
    turns: list[Turn] = []
    system, texts, is_open = "", "", False
    for message in messages:
        if message.role == "assistant":
            turns.append(Turn(system, texts, message.content, message.trained))
            system, texts, is_open = "", "", False
        elif message.role == "user":
            texts += message.content
            is_open = True
        elif message.role == "system":
            system = message.content
        else:
            raise DataError(
                f"named prompt templates have no turn for the role '{message.role}': leave "
                "prompt_template out (None) to use the tokenizer's own chat template"
            )
    if is_open:
        turns.append(Turn(system, texts, None))
    return turns


def from_turns(turns: Any) -> Conversation | None:
    """Read XTuner's ``conversation`` list.

    Args:
        turns: dicts of ``input``, ``output``, and perhaps ``system``, ``output_with_loss`` (bool or
            ``"true"`` / ``"false"``; missing or null counts as true) and ``need_eos_token``. A
            single turn with ``need_eos_token`` false and no input is a plain document.

    Returns:
        The conversation, or None for an empty list: the row is dropped.

    Raises:
        DataError: not a list of such dicts.
    """
    if not isinstance(turns, list):
        raise DataError(f"'conversation' must be a list of turns, found {kind(turns)}")
    if not turns:
        return None
    messages: list[Message] = []
    for index, turn in enumerate(turns):
        if not isinstance(turn, Mapping):
            raise DataError(f"turn {index} must be an object, found {kind(turn)}")
        if turn.get("output") is None:
            raise DataError(f"turn {index} has no 'output', only {sorted(turn)}")
        is_document = len(turns) == 1 and turn.get("need_eos_token") is False
        if is_document and not turn.get("input"):
            return Conversation(text=text_of(turn, "output"))
        if system := text_of(turn, "system", optional=True):
            messages.append(Message("system", system))
        messages.append(Message("user", text_of(turn, "input", optional=True)))
        trained = flag(turn.get("output_with_loss"), "output_with_loss")
        messages.append(Message("assistant", text_of(turn, "output"), trained))
    return Conversation(messages)


def text_of(row: Mapping[str, Any], key: str, optional: bool = False) -> str:
    """Return the string ``row[key]``; with ``optional``, missing and null count as empty.

    Raises:
        DataError: the key is missing or its value is not a string.
    """
    value = row.get(key)
    if isinstance(value, str):
        return value
    if optional and value is None:
        return ""
    if key not in row:
        raise DataError(f"there is no '{key}', only {sorted(map(str, row))}")
    raise DataError(f"'{key}' must be a string, found {kind(value)}")


def flag(value: Any, key: str) -> bool:
    """Return a bool that may be spelled ``"true"`` or ``"false"``; None counts as true.

    Raises:
        DataError: anything else.
    """
    if value is None or isinstance(value, bool):
        return value is not False
    if isinstance(value, str) and value.lower() in ("true", "false"):
        return value.lower() == "true"
    raise DataError(f"'{key}' must be true or false, found {value!r}")


def kind(value: Any) -> str:
    """Name a JSON value's type for an error message."""
    names = {dict: "an object", list: "a list", str: "a string", bool: "a bool", type(None): "null"}
    return names.get(type(value), f"{type(value).__name__} {value!r}")
