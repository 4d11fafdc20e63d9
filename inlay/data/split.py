"""A held-out share of the conversations, chosen by their content.

The same conversation is always on the same side, in whichever source, format or order it comes,
and so is the same picture, whatever is said about it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from inlay.core.types import Conversation, ImageRef


def content_hash(conversation: Conversation) -> int:
    """Return 64 bits over roles, texts, without the white space around them, and pictures.

    A picture counts by its path, as the row names it, or by its bytes.
    """
    if conversation.text is not None:
        parts = ["text", conversation.text.strip()]
    else:
        parts = [p for m in conversation.messages for p in (m.role, m.content.strip())]
    parts += [part for ref in conversation.images for part in ("image", _image_part(ref))]
    data = "\x1f".join(parts).encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")


def _image_part(ref: ImageRef) -> str:
    return ref.path if ref.path is not None else hashlib.blake2b(ref.data or b"").hexdigest()


def held_out(hashes: np.ndarray, fraction: float) -> np.ndarray:
    """Return which conversations belong to the held-out side.

    Args:
        hashes: uint64 ``[N]`` of ``content_hash``, or of ``stream_key``.
        fraction: share of distinct conversations to hold out, in [0, 1].

    Returns:
        bool ``[N]``. Rows that are added never move others.
    """
    if fraction >= 1:
        return np.ones(len(hashes), np.bool_)
    return hashes < np.uint64(int(fraction * 2**64))


def stream_key(conversation_hash: int, image_keys: Sequence[int]) -> int:
    """Return the 64 bits by which a stream, which cannot look ahead, puts a sample on a side.

    That of its first picture, so that what is said about it stays together; without pictures that
    of the conversation. ``split_groups`` decides alike where no sample has a second picture.
    """
    return image_keys[0] if len(image_keys) else conversation_hash


def split_groups(
    hashes: np.ndarray,
    image_keys: tuple[np.ndarray, np.ndarray],
    fraction: float | None = None,
    size: int | None = None,
) -> np.ndarray:
    """Return the held-out samples; those that share a picture, or all content, stay together.

    Groups are the connected parts of that relation. A group is placed by the key of its picture
    (or hash of its content), so one with many samples is as likely to be held out as one with few,
    and conversations that are added about the same pictures never move it. With one picture or
    none per sample and ``fraction``, this is ``held_out`` of the samples' ``stream_key``.

    Args:
        hashes: uint64 ``[N]`` of ``content_hash``.
        image_keys: uint64 ``[M]`` keys of all samples' pictures, sample after sample, and int64
            ``[N]``, where each sample's keys end.
        fraction: share of the groups to hold out, in [0, 1].
        size: samples to hold out: groups in the order of their keys until there are that many.
            Groups larger than ``size`` come last, the smallest of them first, lest one frequent
            picture take all.

    Returns:
        bool ``[N]``.

    Raises:
        ValueError: neither or both of ``fraction`` and ``size``.
    """
    if (fraction is None) == (size is None):
        raise ValueError("give either fraction or size")
    hashes = np.asarray(hashes, np.uint64)
    keys, owners = _owners(*image_keys)
    group = _groups(hashes, keys, owners)
    place = _places(hashes, keys, owners, group)
    if fraction is not None or size is None:
        return held_out(place, fraction or 0)[group]
    counts = np.bincount(group, minlength=len(place))
    order = np.lexsort((place, np.where(counts > size, counts, 0)))
    before = np.cumsum(counts[order]) - counts[order]
    chosen = np.zeros(len(place), np.bool_)
    chosen[order[before < size]] = True
    return chosen[group]


def _owners(keys: np.ndarray, ends: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the keys, and the sample of each."""
    counts: np.ndarray = np.diff(np.asarray(ends, np.int64), prepend=0)
    return np.asarray(keys, np.uint64), np.repeat(np.arange(len(counts)), counts)


def _groups(hashes: np.ndarray, keys: np.ndarray, owners: np.ndarray) -> np.ndarray:
    """Return int64 ``[N]``: the group of every sample, numbered from 0."""
    samples = np.arange(len(hashes))
    links = [_neighbours(hashes, samples), _neighbours(keys, owners)]
    left, right = np.concatenate(links, axis=1)
    parent = samples.copy()
    # Hook the larger of two roots to the smaller, let every sample point at its root, again, until
    # no link joins two groups (Shiloach and Vishkin 1982): a few rounds of array operations.
    while len(left):
        np.minimum.at(parent, np.maximum(left, right), np.minimum(left, right))
        while (up := parent[parent]).tobytes() != parent.tobytes():
            parent = up
        left, right = parent[left], parent[right]
        apart = left != right
        left, right = left[apart], right[apart]
    return np.unique(parent, return_inverse=True)[1]


def _neighbours(values: np.ndarray, samples: np.ndarray) -> np.ndarray:
    """Return int64 ``[2, L]`` links that chain the samples of each value."""
    order = np.argsort(values, kind="stable")
    same = values[order[1:]] == values[order[:-1]]
    return np.stack([samples[order[:-1][same]], samples[order[1:][same]]])


def _places(
    hashes: np.ndarray, keys: np.ndarray, owners: np.ndarray, group: np.ndarray
) -> np.ndarray:
    """Return uint64: the bits that place each group."""
    count = int(group.max(initial=-1)) + 1
    largest = np.iinfo(np.uint64).max
    smallest = np.full(count, largest)
    np.minimum.at(smallest, group[owners], keys)
    has_images = np.bincount(group[owners], minlength=count) > 0
    of_text = np.full(count, largest)
    np.minimum.at(of_text, group, hashes)
    # The smallest of several keys is small: groups of many pictures would be held out too often.
    several = np.zeros(count, np.bool_)
    several[group[owners][keys != smallest[group[owners]]]] = True
    mixed = smallest * np.uint64(0x9E3779B97F4A7C15)  # modulo 2**64
    mixed = (mixed ^ (mixed >> np.uint64(32))) * np.uint64(0xBF58476D1CE4E5B9)
    return np.where(has_images, np.where(several, mixed, smallest), of_text)
