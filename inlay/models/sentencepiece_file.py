"""Read SentencePiece's ``tokenizer.model`` without its library, and without protobuf's, whose
generated code binds it to one version.

The file is a ``ModelProto`` of ``sentencepiece_model.proto`` in protobuf's wire format
(protobuf.dev/programming-guides/encoding).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inlay.core.errors import ModelError

NORMAL, UNKNOWN, CONTROL, USER_DEFINED = 1, 2, 3, 4
"""``SentencePiece.Type``; bytes are 6."""

BYTE_PAIRS = 2
"""``TrainerSpec.ModelType`` BPE."""


@dataclass(frozen=True)
class SentencePieceFile:
    """What a tokenizer needs of the file; lists are indexed by token id.

    Attributes:
        kinds: ``NORMAL``, ``UNKNOWN``, ``CONTROL``, ``USER_DEFINED``, ...
        byte_fallback: characters without a piece are cut into bytes.
        dummy_prefix: a space is put before every text.
        charsmap: SentencePiece's compiled normalisation, or empty.
    """

    pieces: list[str]
    scores: list[float]
    kinds: list[int]
    byte_fallback: bool
    dummy_prefix: bool
    charsmap: bytes


def read_sentencepiece_file(file: str | Path) -> SentencePieceFile:
    """Read a byte-pair model.

    Raises:
        ModelError: the file is damaged, not SentencePiece's, or of another algorithm.
    """
    try:
        fields = list(_fields(Path(file).read_bytes()))
        rows = [dict(_fields(value)) for number, value in fields if number == 1]
        trainer, normalizer = (
            dict(_fields(next((v for n, v in fields if n == number), b""))) for number in (2, 3)
        )
        pieces = [row[1].decode("utf-8") for row in rows]
        kinds = [int(row.get(3, NORMAL)) for row in rows]
        scores = [struct.unpack("<f", row[2])[0] if 2 in row else 0.0 for row in rows]
        model_type, charsmap = trainer.get(3, 1), normalizer.get(2, b"")
    except (ValueError, KeyError, IndexError, AttributeError, TypeError, struct.error) as error:
        raise ModelError(f"'{file}' is not a SentencePiece model, or damaged: {error}") from error
    if UNKNOWN not in kinds or model_type != BYTE_PAIRS:
        raise ModelError(f"'{file}' is not a byte-pair model of SentencePiece")
    return SentencePieceFile(
        pieces, scores, kinds, bool(trainer.get(35, 0)), bool(normalizer.get(3, 1)), charsmap
    )


def _fields(data: bytes) -> Iterator[tuple[int, Any]]:
    """Yield number and value of each field of a message: an int, or the bytes of anything else."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        kind = key & 7
        if kind == 0:
            value, at = _varint(data, at)
            yield key >> 3, value
            continue
        if kind == 2:
            length, at = _varint(data, at)
        elif kind in (1, 5):
            length = 8 if kind == 1 else 4
        else:
            raise ValueError(f"unknown wire type {kind} at byte {at}")
        if at + length > len(data):
            raise ValueError(f"it ends within a field, at byte {len(data)}")
        yield key >> 3, data[at : at + length]
        at += length


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """An integer in groups of seven bits, the lowest first, and where it ends."""
    value = shift = 0
    while True:
        value |= (data[at] & 0x7F) << shift
        shift += 7
        at += 1
        if data[at - 1] < 0x80:
            return value, at
