"""Row formats by name: one function per format, row -> Conversation.

A function returns None for a row that its format drops (alpaca's ``<nooutput>``) and raises
``DataError`` for one that does not have its form. To add a format, add a function here.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from inlay.core.errors import ConfigError, DataError, did_you_mean
from inlay.core.types import Conversation, Message
from inlay.data.map_fns import MAP_FNS
from inlay.data.turns import flag, from_turns, kind, text_of

Format = Callable[[Any], "Conversation | None"]

SPEAKERS = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "chatgpt": "assistant",
    "bing": "assistant",
    "bard": "assistant",
    "system": "system",
    "tool": "tool",
    "observation": "tool",
}
"""ShareGPT's names of the speakers."""

GENERIC_KEYS = {
    "openai": ("messages",),
    "xtuner": ("conversation",),
    "sharegpt": ("conversations",),
    "alpaca": ("instruction", "output"),
    "alpaca_zh": ("instruction_zh", "output_zh"),
    "default": ("input", "output"),
    "text": ("text",),
}
"""The formats that are detected, in this order, and the columns that tell them."""


def xtuner(row: Any) -> Conversation | None:
    """``{"conversation": [{"system", "input", "output", "output_with_loss"}, ...]}``."""
    if "conversation" not in _object(row):
        raise DataError(f"there is no 'conversation', only {sorted(map(str, row))}")
    return from_turns(row["conversation"])


def openai(row: Any) -> Conversation | None:
    """``{"messages": [{"role", "content", "loss"}, ...]}``, or the bare list of messages.

    Text parts of a content list are joined. Answers before the first question are left out.
    """
    messages = row if isinstance(row, list) else _object(row).get("messages")
    return _messages(messages, "messages", "role", "content", {r: r for r in _ROLES})


def sharegpt(row: Any) -> Conversation | None:
    """``{"conversations": [{"from", "value"}, ...]}``, perhaps with a ``system`` column."""
    spoken = _object(row).get("conversations")
    conversation = _messages(spoken, "conversations", "from", "value", SPEAKERS)
    system = text_of(row, "system", optional=True)
    if conversation and system and conversation.messages[0].role != "system":
        conversation.messages.insert(0, Message("system", system))
    return conversation


def text(row: Any) -> Conversation | None:
    """A plain document for continued pre-training: ``{"text": ...}`` or a bare string."""
    return _pretrain({"text": row} if isinstance(row, str) else row)


_ROLES = ("system", "user", "assistant", "tool")


def _messages(
    messages: Any, column: str, role: str, content: str, roles: Mapping[str, str]
) -> Conversation | None:
    if not isinstance(messages, list):
        raise DataError(f"'{column}' must be a list of messages, found {kind(messages)}")
    found: list[Message] = []
    for index, message in enumerate(messages):
        if not isinstance(message, Mapping):
            raise DataError(f"message {index} must be an object, found {kind(message)}")
        name = text_of(message, role)
        if name not in roles:
            hint = did_you_mean(name, roles) or f" Known: {', '.join(roles)}."
            raise DataError(f"message {index} has the unknown {role} '{name}'.{hint}")
        if message.get("tool_calls"):
            raise DataError(f"message {index} holds tool_calls, which cannot be trained yet")
        is_answer = roles[name] == "assistant"
        # As in the originals, an answer opens a conversation only below a system text.
        if found or not is_answer:
            trained = is_answer and flag(message.get("loss"), "loss")
            found.append(Message(roles[name], _content(message, content, index), trained))
    if messages and not found:
        raise DataError(f"'{column}' holds answers only: there is no question")
    return Conversation(found) if found else None


def _content(message: Mapping[str, Any], key: str, index: int) -> str:
    value = message.get(key)
    if not isinstance(value, list):
        return text_of(message, key)
    parts = []
    for part in value:
        if not isinstance(part, Mapping) or part.get("type") != "text":
            found = part.get("type") if isinstance(part, Mapping) else kind(part)
            raise DataError(f"message {index} has a part that is not text: {found}")
        parts.append(text_of(part, "text"))
    return "".join(parts)


def _object(row: Any) -> Mapping[str, Any]:
    if not isinstance(row, Mapping):
        raise DataError(f"a row must be an object, found {kind(row)}")
    return row


def _mapped(name: str) -> Format:
    """Make a format of one of XTuner's map functions."""
    function = MAP_FNS[name]

    def convert(row: Any) -> Conversation | None:
        return from_turns(function(_object(row))["conversation"])

    convert.__name__ = name
    convert.__doc__ = function.__doc__
    return convert


_pretrain = _mapped("pretrain_map_fn")

_NAMED = (name.removesuffix("_map_fn") for name in MAP_FNS if name != "openai_map_fn")

FORMATS: dict[str, Format] = {
    "openai": openai,
    "sharegpt": sharegpt,
    "xtuner": xtuner,
    "text": text,
    **{name: _mapped(f"{name}_map_fn") for name in _NAMED},
    "crime_kg_assitan": _mapped("crime_kg_assitant_map_fn"),  # XTuner's name for the format
}
"""Row formats by name."""


def detect_format(row: Any) -> str:
    """Return the name of the generic format that a row has.

    Raises:
        DataError: none fits; the message names the row's columns and the nearest format.
    """
    if isinstance(row, list):
        return "openai"
    if isinstance(row, str):
        return "text"
    columns = _object(row)
    for name, keys in GENERIC_KEYS.items():
        if all(columns.get(key) is not None for key in keys) and _looks_right(name, columns):
            return name
    near = max(GENERIC_KEYS, key=lambda name: _likeness(GENERIC_KEYS[name], columns))
    wanted = ", ".join(f"'{key}'" for key in GENERIC_KEYS[near])
    raise DataError(
        f"no known format has the columns {sorted(map(str, columns))}. The nearest is '{near}', "
        f"which needs {wanted}{_INSIDE.get(near, '')}. Name one with format=..., of: "
        f"{', '.join(sorted(FORMATS))}; or pass a function from a row to "
        '{"conversation": [{"system", "input", "output"}, ...]}.'
    )


_INSIDE = {"openai": " (a list of 'role', 'content')", "sharegpt": " (a list of 'from', 'value')"}


def _looks_right(name: str, row: Mapping[str, Any]) -> bool:
    if name not in ("openai", "sharegpt"):
        return True
    messages = row[GENERIC_KEYS[name][0]]
    first = messages[0] if isinstance(messages, list) and messages else {}
    wanted = {"openai": "role", "sharegpt": "from"}[name]
    return not isinstance(first, Mapping) or not first or wanted in first


def _likeness(keys: tuple[str, ...], row: Mapping[str, Any]) -> float:
    known = [key for key in keys if key in row]
    similar = [key for key in keys if did_you_mean(key, row)]
    return (len(known) + 0.5 * len(similar)) / len(keys)


def resolve_format(value: str | Callable[[Any], Any]) -> Format:
    """Return the function of a format.

    Args:
        value: a name in ``FORMATS`` or ``MAP_FNS``, or a function from a row to a ``Conversation``,
            to None, or to ``{"conversation": [...]}``.

    Raises:
        ConfigError: unknown name.
    """
    if callable(value):
        return _own(value)
    if value in FORMATS:
        return FORMATS[value]
    if value in MAP_FNS:
        return FORMATS[value.removesuffix("_map_fn")]
    hint = did_you_mean(value, [*FORMATS, *MAP_FNS])
    raise ConfigError(f"there is no data format '{value}'.{hint} Known: {', '.join(FORMATS)}.")


def _own(function: Callable[[Any], Any]) -> Format:
    def convert(row: Any) -> Conversation | None:
        result = function(row)
        if result is None or isinstance(result, Conversation):
            return result
        if isinstance(result, Mapping) and "conversation" in result:
            return from_turns(result["conversation"])
        raise DataError(
            f"the format function {getattr(function, '__name__', function)!r} must return a "
            f"Conversation, None or {{'conversation': [...]}}, got {kind(result)}"
        )

    return convert


def format_identity(value: str | Callable[[Any], Any]) -> str:
    """Return what tells a format apart: its name, or the hash of a function's source."""
    if isinstance(value, str):
        return value
    try:
        source = inspect.getsource(value)
    except (OSError, TypeError):
        source = getattr(value, "__qualname__", type(value).__qualname__)
    return f"function {hashlib.sha256(source.encode()).hexdigest()[:16]}"
