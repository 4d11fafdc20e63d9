"""Read some of a model's weights by the beginnings of their names, from a folder or the hub."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from transformers.utils import cached_file

from inlay.core.errors import ModelError

Tensors = dict[str, torch.Tensor]


def read_tensors(path: str, files: Sequence[str], beginnings: Mapping[str, str]) -> Tensors:
    """Return the tensors whose names begin as a key of ``beginnings`` says, by their new names.

    Args:
        path: folder or hub name; only the shards that hold such tensors are fetched.
        files: names of weight files (``.safetensors``, or a torch file of plain tensors): the
            first that is there counts, whole or in shards with ``<name>.index.json``.
        beginnings: how names begin there, and how they begin here.

    Raises:
        ModelError: none of the files, or not all of their shards, is there.
    """
    olds = tuple(beginnings)
    shards: list[str] | None = None
    for name in files:
        shards = _shards(path, name, olds)
        if shards is not None:
            break
    if shards is None:
        raise ModelError(f"'{path}' holds no {' or '.join(files)}")
    found = {}
    for shard in shards:
        for name, tensor in _tensors(shard, olds).items():
            old = next(b for b in olds if name.startswith(b))
            found[beginnings[old] + name.removeprefix(old)] = tensor
    return found


def part_of(tensors: Tensors, beginning: str) -> Tensors:
    """Return the tensors whose names begin so, by the rest of their names."""
    return {
        name.removeprefix(beginning): tensor
        for name, tensor in tensors.items()
        if name.startswith(beginning)
    }


def _shards(path: str, name: str, beginnings: tuple[str, ...]) -> list[str] | None:
    """The files that hold tensors of such names; None where there is no weight file ``name``."""
    index = cached(path, f"{name}.index.json")
    if index is None:
        whole = cached(path, name)
        return None if whole is None else [whole]
    weight_map = json.loads(Path(index).read_text(encoding="utf-8"))["weight_map"]
    shards = []
    for file in sorted({f for key, f in weight_map.items() if key.startswith(beginnings)}):
        shard = cached(path, file)
        if shard is None:
            raise ModelError(f"'{path}' lacks {file}, which {name}.index.json names")
        shards.append(shard)
    return shards


def cached(path: str, name: str) -> str | None:
    """Return the local path of a file in a folder or hub repository; None where it has no such.

    Raises:
        ModelError: there is no such folder or repository.
    """
    try:
        return cached_file(
            path,
            name,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
        )
    except OSError as error:
        raise ModelError(f"'{path}' is neither a folder nor a hub name: {error}") from error


def _tensors(file: str, beginnings: tuple[str, ...]) -> Tensors:
    try:
        if file.endswith(".safetensors"):
            from safetensors import safe_open

            with safe_open(file, framework="pt") as opened:
                names = [name for name in opened.keys() if name.startswith(beginnings)]  # noqa: SIM118
                return {name: opened.get_tensor(name) for name in names}
        tensors = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # safetensors and torch raise kinds of their own for damaged files
        raise ModelError(f"{file} is damaged: {error}") from error
    return {name: tensor for name, tensor in tensors.items() if name.startswith(beginnings)}
