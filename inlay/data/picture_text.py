"""Pictures in the text of a conversation: what stands for them there, and their tokens."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence

from inlay.core.errors import DataError
from inlay.core.types import IMAGE_MARK, ImagePlan, ImageProcessor
from inlay.data.tokens import Piece

_MARK = re.compile(f"({IMAGE_MARK})")


def parts(content: str) -> list[dict[str, str]]:
    """Return a message's content as templates of vision-language models take it: a list of
    ``{"type": "text", "text": ...}`` and ``{"type": "image"}``, one at least."""
    found = [part for part in _MARK.split(content) if part]
    return [
        {"type": "image"} if part == IMAGE_MARK else {"type": "text", "text": part}
        for part in found or [""]
    ]


def literals(processor: ImageProcessor) -> list[str]:
    """Return the texts that a tokenizer or template would take for a picture, longest first."""
    return sorted({processor.image_token, processor.placeholder or ""} - {""}, key=len)[::-1]


def without(texts: Sequence[str], content: str) -> str:
    """Remove ``texts`` from ``content``, those that removing brings together included."""
    while any(text in content for text in texts):
        for text in texts:
            content = content.replace(text, "")
    return content


def cut_at_pictures(
    pieces: Iterable[Piece],
    plans: Sequence[ImagePlan],
    behind: Callable[[ImagePlan], str],
) -> list[Piece]:
    """Put the tokens of pictures where ``IMAGE_MARK`` stands; they are not trained.

    The text on either side of a picture is tokenised on its own.

    Args:
        plans: one per mark, in order.
        behind: text to tokenise behind, for the text that follows a picture (``Piece.after``).

    Raises:
        DataError: there are more marks than plans, or fewer.
    """
    pieces = list(pieces)
    marks = sum(piece.text.count(IMAGE_MARK) for piece in pieces)
    if marks != len(plans):
        raise DataError(
            f"the conversation has {len(plans)} pictures, and its text, as the chat template "
            f"writes it, has places for {marks}"
        )
    cut: list[Piece] = []
    rest = iter(plans)
    for piece in pieces:
        if IMAGE_MARK not in piece.text:
            cut.append(piece)
            continue
        *heads, tail = piece.text.split(IMAGE_MARK)
        after, behind_last = piece.after, ""
        for head in heads:
            plan = next(rest)
            if text := behind_last + head + plan.prefix:
                cut.append(Piece(text, piece.trained, None, after))
            cut.append(Piece("", False, plan.ids))
            after, behind_last = behind(plan), plan.suffix
        if text := behind_last + tail:
            cut.append(Piece(text, piece.trained, None, after))
    return cut
