"""Pictures of a row: what its columns and messages name, and their marks in the texts."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from typing import Any

from inlay.core.errors import DataError
from inlay.core.types import IMAGE_MARK, Conversation, ImageRef
from inlay.data.turns import kind

IMAGE = "<image>"
"""Where a picture belongs, in the texts of rows that have a picture column."""

COLUMNS = ("images", "image")
_PART_KEYS = ("image", "image_url", "url", "path")


def row_images(row: Any) -> list[ImageRef] | None:
    """Return the pictures in a row's ``images`` or ``image`` column: a list of them, or one.

    Returns:
        None without such a column. Null counts as none: tables fill up text rows with it.

    Raises:
        DataError: a value that is no picture.
    """
    if not isinstance(row, Mapping):
        return None
    column = next((name for name in COLUMNS if row.get(name) is not None), None)
    if column is None:
        return None
    values = row[column]
    return [image_ref(v) for v in (values if isinstance(values, list) else [values])]


def image_ref(value: Any) -> ImageRef:
    """Return a picture given as a path, a ``data:`` URL, bytes, or a dict of ``bytes``, ``path``.

    Raises:
        DataError: anything else; an address on the network.
    """
    if isinstance(value, Mapping):
        data = value.get("bytes")
        value = value.get("path") if data is None else data
    if isinstance(value, bytes | bytearray | memoryview):
        return ImageRef(data=bytes(value))
    if not isinstance(value, str) or not value:
        raise DataError(
            f"a picture must be a path, bytes or an object of 'bytes' and 'path', found "
            f"{kind(value)}"
        )
    scheme = value[:8].lower()
    if scheme.startswith(("http://", "https://")):
        raise DataError(
            f"pictures are not fetched from the network: {value[:200]}. Download it, and give the "
            "file's path inside image_folder."
        )
    if scheme.startswith("data:"):
        return ImageRef(data=_decoded(value))
    return ImageRef(path=value.removeprefix("file://"))


def _decoded(url: str) -> bytes:
    head, _, body = url.partition(",")
    try:
        if not head.endswith(";base64"):
            raise ValueError("it is not base64")
        return base64.b64decode("".join(body.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise DataError(f"a data: URL of a picture cannot be read: {error}") from None


def part_image(part: Mapping[str, Any]) -> ImageRef | None:
    """Return the picture of a content part; None where it stands in the row's column.

    Args:
        part: ``{"type": "image", "image": ...}``, ``{"type": "image_url", "image_url": {"url":
            ...}}``, or with the picture under ``url`` or ``path``, or without one.
    """
    value = next((part[key] for key in _PART_KEYS if part.get(key) is not None), None)
    if isinstance(value, Mapping) and value.get("url") is not None:
        value = value["url"]
    return None if value is None else image_ref(value)


def with_images(
    conversation: Conversation,
    images: list[ImageRef] | None,
    parts: Sequence[ImageRef | None] = (),
) -> Conversation:
    """Give a conversation its pictures, one for each mark.

    Args:
        conversation: with ``<image>`` in the texts, or, with ``parts``, with marks. It is changed.
        images: of the row's column; without one (None) ``<image>`` is ordinary text.
        parts: of its messages, None for those in the column. With any, ``<image>`` is text, too.

    Raises:
        DataError: more pictures than places for them, or fewer.
    """
    if parts:
        check_count(len(images or ()), parts.count(None))
        rest = iter(images or ())
        conversation.images = [next(rest) if part is None else part for part in parts]
        return conversation
    _edit(conversation, unmarked)
    if images is not None:
        check_count(len(images), sum(text.count(IMAGE) for text in texts_of(conversation)))
        _edit(conversation, lambda text: text.replace(IMAGE, IMAGE_MARK))
        conversation.images = images
    return conversation


def check_count(images: int, places: int) -> None:
    """Raise ``DataError`` unless there are as many pictures as places for them."""
    if images != places:
        raise DataError(
            f"{images} picture{'s' * (images != 1)} but {places} {IMAGE}: each picture of a row "
            "needs one place in its texts"
        )


def texts_of(conversation: Conversation) -> list[str]:
    """Return the texts of a conversation or document, in order."""
    if conversation.text is not None:
        return [conversation.text]
    return [message.content for message in conversation.messages]


def unmarked(text: str) -> str:
    """Return a text of a row without ``IMAGE_MARK``, which no picture of it would answer to."""
    return text.replace(IMAGE_MARK, "\ufffd") if IMAGE_MARK in text else text


def _edit(conversation: Conversation, change: Any) -> None:
    if conversation.text is not None:
        conversation.text = change(conversation.text)
    for message in conversation.messages:
        message.content = change(message.content)
