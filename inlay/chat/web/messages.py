"""What the page's scripts are told: plain values for JSON, never HTML."""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING, Any

from inlay.chat.web.parts import Done, Region, Said, Waiting

if TYPE_CHECKING:
    from PIL.Image import Image

PREVIEW_SIDE = 1024
"""Longest side, in px, of a picture on the page."""
_LOSSLESS_SIDE = 400


def turn(number: int, text: str, event: Waiting | Said | Done) -> dict[str, Any]:
    """Return the state of a text and its answer.

    Returns:
        ``turn`` and ``text`` as given; ``state``: waiting, writing, done or refused; ``before``:
        requests that are answered first; ``answer`` so far; its ``regions``; ``notice``: a sentence
        about it, or None.
    """
    state = {"turn": number, "text": text, "before": 0, "answer": "", "regions": [], "notice": None}
    match event:
        case Waiting(before):
            return state | {"state": "waiting", "before": before}
        case Said(answer):
            return state | {"state": "writing", "answer": answer}
        case Done(answer, regions, notice, stopped):
            notices = ["Stopped."] * stopped + ([notice] if notice else [])
            return state | {
                "state": "done",
                "answer": answer,
                "regions": [region(found) for found in regions],
                "notice": " ".join(notices) or None,
            }


def refused(number: int, text: str, answer: str, why: str) -> dict[str, Any]:
    """Return the state of a text that is not answered (any further)."""
    return turn(number, text, Said(answer)) | {"state": "refused", "notice": why}


def region(found: Region) -> dict[str, Any]:
    """Return ``Region.record`` with its number, span and colour."""
    own = {"number": found.number, "span": found.span, "colour": found.colour}
    return found.record() | own


def preview(image: Image) -> dict[str, Any]:
    """Return ``url`` of a picture of at most ``PREVIEW_SIDE`` px, ``width`` and ``height`` of the
    original. Small pictures stay exact."""
    small = image.copy()
    small.thumbnail((PREVIEW_SIDE, PREVIEW_SIDE))
    is_exact = max(image.size) <= _LOSSLESS_SIDE
    buffer = io.BytesIO()
    small.save(buffer, "PNG" if is_exact else "JPEG", quality=88)
    kind = "image/png" if is_exact else "image/jpeg"
    return {
        "url": _data_url(kind, buffer.getvalue()),
        "width": image.width,
        "height": image.height,
    }


def png_file(name: str, data: bytes) -> dict[str, str]:
    """Return ``name`` and ``url`` of a file to save."""
    return {"name": name, "url": _data_url("image/png", data)}


def _data_url(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"
