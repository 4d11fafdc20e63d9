"""Checkpoints of DeepSpeed's ZeRO: every rank's part of weights and optimizer, put together again.

Layout: arXiv 1910.02054, and what DeepSpeed 0.12 to 0.19 writes. In the folder of a step there are
one ``mp_rank_00_model_states.pt`` (ZeRO-3: one a rank) and one ``..._optim_states.pt`` a rank.
ZeRO-1 and 2 lay the weights of a parameter group end to end, pad the end and cut that into as many
pieces as there are ranks; ZeRO-3 cuts every weight by itself.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from inlay.core.errors import CheckpointError
from inlay.core.torch_file import load_torch

Tensors = dict[str, torch.Tensor]

SHARD = re.compile(r"(?:bf16_|fp16_)?zero_pp_rank_(\d+)(?:_mp_rank_(\d+))?_?optim_states\.pt")
MODEL = re.compile(r"(?:zero_pp_rank_(\d+)_)?mp_rank_(\d+)_model_states\.pt")
LATEST = "latest"


@dataclass
class ZeroCheckpoint:
    """A checkpoint of all ranks.

    Attributes:
        folder: that holds its files. stage: 1, 2 or 3; 0 without ZeRO.
        world_size: ranks that wrote it.
        weights: trained weights by name, whole, in the type of the optimizer's copy (float32).
        frozen: shapes of the weights that were not trained, as far as the files tell.
        states: the optimizer's state: values by key by weight; tensors in the weight's shape.
        client: what the training tool has added (of XTuner: ``meta``, ``message_hub``, ...) and
            DeepSpeed's own counters (``global_steps``, ...).
    """

    folder: Path
    stage: int
    world_size: int
    weights: Tensors = field(default_factory=dict)
    frozen: dict[str, torch.Size] = field(default_factory=dict)
    states: dict[str, dict[str, Any]] = field(default_factory=dict)
    client: dict[str, Any] = field(default_factory=dict)


def find_zero(path: str | Path) -> Path | None:
    """Return the folder with DeepSpeed's files that the user means, or None.

    Args:
        path: that folder (``iter_500.pth/``), or the one above it with a file ``latest``.
    """
    folder = Path(path)
    if not folder.is_dir():
        return None
    latest = folder / LATEST
    tag = latest.read_text(encoding="utf-8").strip() if latest.is_file() else ""
    for candidate in (folder, folder / tag, folder / Path(tag).name):
        if any(SHARD.fullmatch(f.name) or MODEL.fullmatch(f.name) for f in candidate.iterdir()):
            return candidate
    return None


def read_zero(folder: Path) -> ZeroCheckpoint:
    """Read and merge a folder that ``find_zero`` has found.

    Raises:
        CheckpointError: a file is missing, damaged, refused or of another run, or the model was
            split over several model-parallel ranks.
    """
    models = [load_torch(path) for path in _by_rank(folder, MODEL)]
    if not models:
        raise CheckpointError(f"{folder}: mp_rank_00_model_states.pt is missing")
    first, paths = models[0], _by_rank(folder, SHARD)
    try:
        if paths:
            return _merged(folder, models, [load_torch(path) for path in paths])
        client = {k: v for k, v in first.items() if k not in ("module", "optimizer")}
        return ZeroCheckpoint(folder, 0, 1, dict(first["module"]), client=client)
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{folder} is no checkpoint of DeepSpeed's ZeRO, or of a release that lays its files "
            f"out otherwise: {error!r}"
        ) from error


def _by_rank(folder: Path, pattern: re.Pattern[str]) -> list[Path]:
    """The files of all ranks in their order.

    Raises:
        CheckpointError: two files of one rank, a gap, or parts of a split model.
    """
    found: dict[int, Path] = {}
    for path in sorted(folder.iterdir()):
        match = pattern.fullmatch(path.name)
        if match is None:
            continue
        if int(match[2] or 0):
            raise CheckpointError(
                f"{folder}: '{path.name}' is a part of a model that was split over several ranks "
                "(model parallelism): merge it with the tool that wrote it"
            )
        rank = int(match[1] or 0)
        if rank in found:
            raise CheckpointError(
                f"{folder} holds the files of two runs: '{found[rank].name}' and '{path.name}' are "
                f"both of rank {rank}. Move those of the other run away."
            )
        found[rank] = path
    if missing := sorted(set(range(len(found))) - set(found)):
        raise CheckpointError(_missing(folder, missing, max(found) + 1))
    return [found[rank] for rank in sorted(found)]


def _missing(folder: Path, ranks: list[int], expected: int) -> str:
    names = ", ".join(map(str, ranks[:5]))
    return (
        f"{folder} is incomplete: of {expected} ranks, the file of rank {names} is missing. Copy "
        "the files of all machines into one folder."
    )


def _merged(folder: Path, models: list[dict[str, Any]], shards: list[Any]) -> ZeroCheckpoint:
    ranks = [shard["optimizer_state_dict"] for shard in shards]
    first = models[0]
    stage = int(ranks[0].get("zero_stage", 1))
    counts = ranks[0]["partition_count"]
    world_size = max(counts) if isinstance(counts, list) else int(counts)
    if world_size > len(ranks):
        raise CheckpointError(_missing(folder, list(range(len(ranks), world_size)), world_size))
    if world_size < len(ranks):
        raise CheckpointError(
            f"{folder} holds shards of {len(ranks)} ranks, but was written by {world_size}: those "
            "of an earlier run were left behind. Move them away."
        )
    if stage == 3 and len(models) != world_size:
        raise CheckpointError(_missing(folder, list(range(len(models), world_size)), world_size))
    kept = ("module", "optimizer", "param_shapes", "frozen_param_fragments")
    merged = ZeroCheckpoint(
        folder,
        stage,
        world_size,
        frozen=dict(first.get("frozen_param_shapes") or {}),
        client={k: v for k, v in first.items() if k not in kept},
    )
    groups = [dict(group) for group in first["param_shapes"]]
    parts = _parts_by_weight if stage == 3 else _parts_by_group
    for name, shape, key, value in parts(folder, ranks, groups):
        if key is None:
            merged.weights[name] = value.reshape(shape)
        else:
            whole = isinstance(value, torch.Tensor) and value.numel() == math.prod(shape) > 1
            merged.states.setdefault(name, {})[key] = value.reshape(shape) if whole else value
    for alias, name in (first.get("shared_params") or {}).items():
        if name in merged.weights:
            merged.weights[alias] = merged.weights[name]
    return merged


Found = tuple[str, torch.Size, str | None, Any]
"""Name and shape of a weight, key of its state (None: the weight itself), and value."""


def _parts_by_group(
    folder: Path, ranks: list[dict[str, Any]], groups: list[dict[str, torch.Size]]
) -> Iterator[Found]:
    """ZeRO-1 and 2: all weights of a group end to end, cut where a rank's piece ends."""
    for index, shapes in enumerate(groups):
        flat: dict[str | None, _Flat] = {}
        flat[None] = _Flat([r["single_partition_of_fp32_groups"][index] for r in ranks])
        scalars = {}
        states = [_state_of(r["base_optimizer_state"], index) for r in ranks]
        for key, value in states[0].items():
            if isinstance(value, torch.Tensor) and value.numel() > 1:
                flat[key] = _Flat([state[key] for state in states])
            else:
                scalars[key] = value
        gaps = (ranks[0].get("param_alignment_paddings") or {index: []})[index]
        begin = 0
        for place, (name, shape) in enumerate(shapes.items()):
            for part, whole in flat.items():
                yield name, shape, part, whole.read(folder, name, begin, math.prod(shape))
            for key, value in scalars.items():
                yield name, shape, key, value
            begin += math.prod(shape) + (gaps[place] if gaps else 0)
        _check_rest(folder, flat[None].length - begin, 2 * len(ranks))


def _parts_by_weight(
    folder: Path, ranks: list[dict[str, Any]], groups: list[dict[str, torch.Size]]
) -> Iterator[Found]:
    """ZeRO-3: of each weight every rank has an equal piece, the last ones padded."""
    shapes = {name: shape for group in groups for name, shape in group.items()}
    optimizers = [r["optimizer_state_dict"]["state"] for r in ranks]
    numbers = sorted(optimizers[0])
    tensors: dict[str | None, list[_Flat]] = {None: [_Flat(r["fp32_flat_groups"]) for r in ranks]}
    scalars = {}
    for key, value in optimizers[0][numbers[0]].items() if numbers else ():
        if isinstance(value, torch.Tensor) and value.numel() > 1:
            tensors[key] = [_Flat([state[i][key] for i in numbers]) for state in optimizers]
        else:
            scalars[key] = value
    begin = 0
    for name, shape in shapes.items():
        size = math.prod(shape)
        piece = -(-size // len(ranks))
        for part, flats in tensors.items():
            pieces = [flat.read(folder, name, begin, piece) for flat in flats]
            yield name, shape, part, torch.cat(pieces)[:size]
        for key, value in scalars.items():
            yield name, shape, key, value
        begin += piece
    _check_rest(folder, tensors[None][0].length - begin, 1)


def _state_of(optimizer: Any, group: int) -> dict[str, Any]:
    """State of a group's one flat parameter; an elastic checkpoint has a list instead."""
    if isinstance(optimizer, list):
        return optimizer[group] if group < len(optimizer) else {}
    return optimizer["state"].get(group, {})


def _check_rest(folder: Path, rest: int, allowed: int) -> None:
    """What is left over can only be padding.

    Raises:
        CheckpointError: the shards hold more than the model's weights.
    """
    if rest >= allowed:
        raise CheckpointError(
            f"{folder}: the shards hold {rest} values more than the model's weights need, so they "
            "are of another run than mp_rank_00_model_states.pt"
        )


class _Flat:
    """1-D tensors, read as if they lay end to end."""

    def __init__(self, pieces: Any) -> None:
        self.pieces = [piece.reshape(-1) for piece in pieces]
        self.length = sum(piece.numel() for piece in self.pieces)

    def read(self, folder: Path, name: str, begin: int, size: int) -> torch.Tensor:
        """Return the values ``[begin, begin + size)``; a copy only where pieces meet.

        Raises:
            CheckpointError: they end before.
        """
        found, at, start = [], begin, 0
        for piece in self.pieces:
            end = start + piece.numel()
            if start <= at < min(end, begin + size):
                stop = min(end, begin + size)
                found.append(piece[at - start : stop - start])
                at = stop
            start = end
        if at < begin + size:
            raise CheckpointError(
                f"{folder}: the shards end inside of '{name}': they are of another run than "
                "mp_rank_00_model_states.pt, or cut off"
            )
        if not found:
            return torch.empty(0, dtype=self.pieces[0].dtype if self.pieces else torch.float32)
        return found[0] if len(found) == 1 else torch.cat(found)
