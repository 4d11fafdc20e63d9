"""Write safetensors files with their checksum, every byte touched once in memory.

safetensors' own writer copies all tensors before it writes; this one hands each to the disk and to
the hash at the same time. Format: https://huggingface.co/docs/safetensors (little endian).
"""

from __future__ import annotations

import hashlib
import json
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import torch

DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint64: "U64",
    torch.uint32: "U32",
    torch.uint16: "U16",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


def write_tensors(path: Path, tensors: dict[str, torch.Tensor]) -> Future[str]:
    """Write ``tensors`` to ``path``; the file is complete, but not synced, on return.

    Returns:
        The SHA-256 of the file in hex, computed in a thread that may still be busy.

    Raises:
        OSError: the disk is full or not writable.
    """
    # The widest values first: every tensor is then aligned to its own size.
    ordered = sorted(tensors.items(), key=lambda item: (-item[1].element_size(), item[0]))
    digest = hashlib.sha256()
    hashing = ThreadPoolExecutor(1)
    try:
        with path.open("wb") as file:
            head = _header(ordered)
            digest.update(head)
            file.write(head)
            for _, tensor in ordered:
                data = _bytes(tensor).numpy().data
                hashing.submit(digest.update, data)
                file.write(data)
        return hashing.submit(digest.hexdigest)
    finally:
        hashing.shutdown(wait=False)


def _header(tensors: list[tuple[str, torch.Tensor]]) -> bytes:
    """Length of the JSON table (8 bytes), and the table: dtype, shape and place of every tensor."""
    table, start = {}, 0
    for name, tensor in tensors:
        stop = start + tensor.numel() * tensor.element_size()
        table[name] = {
            "dtype": DTYPES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [start, stop],
        }
        start = stop
    text = json.dumps(table, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _bytes(tensor: torch.Tensor) -> torch.Tensor:
    """uint8 ``[numel * element_size]`` on the CPU; no copy where it is there and contiguous."""
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
