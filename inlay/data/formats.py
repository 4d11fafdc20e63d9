"""Row formats by name: one function per format, row -> Conversation.

A function returns None for a row that its format drops (alpaca's ``<nooutput>``) and raises
``DataError`` for one that does not have its form. To add a format, add a function here.

Every format takes pictures from a column ``images`` or ``image``, one for each ``<image>`` in the
texts. In a row without such a column ``<image>`` is text like any other.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from inlay.core.errors import ConfigError, DataError, did_you_mean
from inlay.core.types import IMAGE_MARK, Conversation, ImageRef, Message
from inlay.data.map_fns import MAP_FNS
from inlay.data.messages import ROLES, SPEAKERS, read_messages
from inlay.data.turns import from_turns, kind, text_of
from inlay.data.vision.rows import (
    IMAGE,
    check_count,
    row_images,
    texts_of,
    unmarked,
    with_images,
)

Format = Callable[[Any], "Conversation | None"]

GENERIC_KEYS = {
    "openai": ("messages",),
    "xtuner": ("conversation",),
    "finevision": ("texts",),
    "llava": ("image", "conversations"),
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
    return _turns(row["conversation"], row_images(row))


def openai(row: Any) -> Conversation | None:
    """``{"messages": [{"role", "content", "loss"}, ...]}``, or the bare list of messages.

    A content may be a list of parts: texts, which are joined, and pictures (paths, ``data:`` URLs,
    or without either, those of the row's column). Answers before the first question are left out.
    """
    messages = row if isinstance(row, list) else _object(row).get("messages")
    columns = ("messages", "role", "content")
    return read_messages(messages, columns, ROLES, row_images(row))


def sharegpt(row: Any) -> Conversation | None:
    """``{"conversations": [{"from", "value"}, ...]}``, perhaps with a ``system`` column."""
    spoken = _object(row).get("conversations")
    columns = ("conversations", "from", "value")
    conversation = read_messages(spoken, columns, SPEAKERS, row_images(row))
    system = text_of(row, "system", optional=True)
    if conversation and system and conversation.messages[0].role != "system":
        conversation.messages.insert(0, Message("system", unmarked(system)))
    return conversation


def llava(row: Any) -> Conversation | None:
    """LLaVA's ``{"image", "conversations": [{"from": "human" or "gpt", "value"}, ...]}``.

    Pictures of a turn move to its front, each on a line of its own; those of a row that nowhere
    says ``<image>`` to the front of the first turn. Text rows stay as they are.
    """
    images = row_images(_object(row))
    name = "wizardlm_map_fn" if images is None else "llava_map_fn"
    conversation = from_turns(MAP_FNS[name](row)["conversation"])
    if conversation is None:
        return None
    if images and not any(IMAGE in text for text in texts_of(conversation)):
        conversation.messages[0].content = (
            f"{IMAGE}\n" * len(images) + conversation.messages[0].content
        )
    return with_images(conversation, images)


def finevision(row: Any) -> Conversation | None:
    """``{"images": [{"bytes", "path"}, ...], "texts": [{"user", "assistant"}, ...]}``.

    All pictures stand at the front of the first question. A row without turns is dropped.
    """
    texts = _object(row).get("texts")
    if not isinstance(texts, list):
        raise DataError(f"'texts' must be a list of turns, found {kind(texts)}")
    messages: list[Message] = []
    for index, turn in enumerate(texts):
        if not isinstance(turn, Mapping):
            raise DataError(f"turn {index} must be an object, found {kind(turn)}")
        messages.append(Message("user", unmarked(text_of(turn, "user"))))
        messages.append(Message("assistant", unmarked(text_of(turn, "assistant")), True))
    if not messages:
        return None
    images = row_images(row) or []
    messages[0].content = IMAGE_MARK * len(images) + messages[0].content
    return Conversation(messages, images=images)


def text(row: Any) -> Conversation | None:
    """A plain document for continued pre-training: ``{"text": ...}`` or a bare string."""
    return _pretrain({"text": row} if isinstance(row, str) else row)


def _turns(turns: Any, images: list[ImageRef] | None) -> Conversation | None:
    conversation = from_turns(turns)
    return None if conversation is None else with_images(conversation, images)


def _object(row: Any) -> Mapping[str, Any]:
    if not isinstance(row, Mapping):
        raise DataError(f"a row must be an object, found {kind(row)}")
    return row


def _mapped(name: str) -> Format:
    """Make a format of one of XTuner's map functions."""
    function = MAP_FNS[name]

    def convert(row: Any) -> Conversation | None:
        return _turns(function(_object(row))["conversation"], row_images(row))

    convert.__name__ = name
    convert.__doc__ = function.__doc__
    return convert


_pretrain = _mapped("pretrain_map_fn")

_OURS = ("openai_map_fn", "llava_map_fn")
_NAMED = (name.removesuffix("_map_fn") for name in MAP_FNS if name not in _OURS)

FORMATS: dict[str, Format] = {
    "openai": openai,
    "sharegpt": sharegpt,
    "llava": llava,
    "finevision": finevision,
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


_INSIDE = {
    "openai": " (a list of 'role', 'content')",
    "finevision": " (a list of 'user', 'assistant')",
    "llava": " (a list of 'from', 'value')",
    "sharegpt": " (a list of 'from', 'value')",
}
_FIRST = {
    "openai": ("messages", "role"),
    "finevision": ("texts", "user"),
    "llava": ("conversations", "from"),
    "sharegpt": ("conversations", "from"),
}


def _looks_right(name: str, row: Mapping[str, Any]) -> bool:
    if name not in _FIRST:
        return True
    column, wanted = _FIRST[name]
    messages = row[column]
    first = messages[0] if isinstance(messages, list) and messages else {}
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
        name = getattr(value, "__name__", "")
        if MAP_FNS.get(name) is not value:
            return _own(value)
        value = name
    if value in FORMATS:
        return FORMATS[value]
    if value in MAP_FNS:
        return FORMATS[value.removesuffix("_map_fn")]
    hint = did_you_mean(value, [*FORMATS, *MAP_FNS])
    raise ConfigError(f"there is no data format '{value}'.{hint} Known: {', '.join(FORMATS)}.")


def _own(function: Callable[[Any], Any]) -> Format:
    def convert(row: Any) -> Conversation | None:
        result = function(row)
        if isinstance(result, Conversation):
            check_count(len(result.images), sum(t.count(IMAGE_MARK) for t in texts_of(result)))
        if result is None or isinstance(result, Conversation):
            return result
        if isinstance(result, Mapping) and "conversation" in result:
            return _own_turns(from_turns(result["conversation"]), row, result)
        raise DataError(
            f"the format function {getattr(function, '__name__', function)!r} must return a "
            f"Conversation, None or {{'conversation': [...]}}, got {kind(result)}"
        )

    return convert


def _own_turns(
    conversation: Conversation | None, row: Any, result: Mapping[str, Any]
) -> Conversation | None:
    if conversation is None:
        return None
    # A function that writes no <image> wants none of the row's pictures.
    images = None
    if any(IMAGE in text for text in texts_of(conversation)):
        images = row_images({**row, **result} if isinstance(row, Mapping) else result)
    return with_images(conversation, images)


def format_identity(value: str | Callable[[Any], Any]) -> str:
    """Return what tells a format apart: its name, or the hash of a function's source."""
    if isinstance(value, str):
        return value
    try:
        source = inspect.getsource(value)
    except (OSError, TypeError):
        source = getattr(value, "__qualname__", type(value).__qualname__)
    return f"function {hashlib.sha256(source.encode()).hexdigest()[:16]}"
