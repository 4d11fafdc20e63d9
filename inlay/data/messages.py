"""Lists of messages in rows: roles, texts, and parts that are texts or pictures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from inlay.core.errors import DataError, did_you_mean
from inlay.core.types import IMAGE_MARK, Conversation, ImageRef, Message
from inlay.data.turns import flag, kind, text_of
from inlay.data.vision.rows import part_image, unmarked, with_images

ROLES = {role: role for role in ("system", "user", "assistant", "tool")}
"""OpenAI's names of the roles."""

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

_IMAGE_PARTS = ("image", "image_url", "input_image")
_TEXT_PARTS = ("text", "input_text", "output_text")


def read_messages(
    messages: Any,
    columns: tuple[str, str, str],
    roles: Mapping[str, str],
    images: list[ImageRef] | None,
) -> Conversation | None:
    """Read a list of messages; answers before the first question are left out.

    A content may be a list of parts: texts, which are joined, and pictures.

    Args:
        columns: names of the list's column, and of a message's role and content.
        roles: the names that roles have in these rows, and ours.
        images: pictures of the row's column, None where it has none.

    Returns:
        The conversation, or None for an empty list: the row is dropped.

    Raises:
        DataError: not a list of such messages, or not one place for each picture.
    """
    column, role, text = columns
    if not isinstance(messages, list):
        raise DataError(f"'{column}' must be a list of messages, found {kind(messages)}")
    found: list[Message] = []
    parts: list[ImageRef | None] = []
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
            found.append(Message(roles[name], _content(message, text, index, parts), trained))
    if messages and not found:
        raise DataError(f"'{column}' holds answers only: there is no question")
    return with_images(Conversation(found), images, parts) if found else None


def _content(message: Mapping[str, Any], key: str, index: int, parts: list[ImageRef | None]) -> str:
    value = message.get(key)
    if not isinstance(value, list):
        return unmarked(text_of(message, key))
    texts = []
    for part in value:
        name = part.get("type") if isinstance(part, Mapping) else kind(part)
        if name in _IMAGE_PARTS:
            parts.append(part_image(part))
            texts.append(IMAGE_MARK)
        elif name in _TEXT_PARTS:
            texts.append(unmarked(text_of(part, "text")))
        else:
            raise DataError(f"message {index} has a part that is neither text nor picture: {name}")
    return "".join(texts)
