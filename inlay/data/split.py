"""A held-out share of the conversations, chosen by their content.

The same conversation is always on the same side, in whichever source, format or order it comes,
and rows that are added never move others.
"""

from __future__ import annotations

import hashlib

import numpy as np

from inlay.core.types import Conversation


def content_hash(conversation: Conversation) -> int:
    """Return 64 bits over roles and texts, without the white space around them."""
    if conversation.text is not None:
        parts = ["text", conversation.text.strip()]
    else:
        parts = [p for m in conversation.messages for p in (m.role, m.content.strip())]
    data = "\x1f".join(parts).encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")


def held_out(hashes: np.ndarray, fraction: float) -> np.ndarray:
    """Return which conversations belong to the held-out side.

    Args:
        hashes: uint64 ``[N]`` of ``content_hash``.
        fraction: share of distinct conversations to hold out, in [0, 1].

    Returns:
        bool ``[N]``.
    """
    if fraction >= 1:
        return np.ones(len(hashes), np.bool_)
    return hashes < np.uint64(int(fraction * 2**64))
