"""What a path holds: checkpoints of Inlay, MMEngine, DeepSpeed, transformers or peft."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from inlay.convert.flmm import FROZEN, from_flmm
from inlay.core.errors import CheckpointError, did_you_mean
from inlay.core.torch_file import load_torch, state_dict_of
from inlay.core.zero import ZeroCheckpoint, find_zero, read_zero
from inlay.engine.checkpoint import POINTER
from inlay.engine.checkpoint import locate as locate_own
from inlay.models.grounding.model import FrozenGrounding
from inlay.models.pretrained import TORCH_FILES, own_name

Tensors = dict[str, torch.Tensor]

KINDS = {
    "inlay": "checkpoint of Inlay",
    "mmengine": "checkpoint of MMEngine (XTuner 0.1, F-LMM)",
    "deepspeed": "checkpoint of DeepSpeed",
    "tensors": "weights by name",
    "adapter": "PEFT adapter",
    "parts": "LLaVA parts",
    "projector": "projector of LLaVA parts",
    "nanovlm": "nanoVLM model",
    "huggingface": "Hugging Face model",
}
STEP = re.compile(r"(iter|epoch)_(\d+)\.pth")
PARTS = ("projector", "llm_adapter", "visual_encoder_adapter", "visual_encoder")


@dataclass
class Foreign:
    """A checkpoint, as far as it is read at once.

    Attributes:
        kind: one of ``KINDS``.
        path: file or folder, as found.
        weights: of ``mmengine``, ``deepspeed``, ``tensors``: trained weights by their names there.
        states: the optimizer's state, values by key: by weight name, or in the order of the weights
            that were trained.
        meta: plain values: ``iter``, ``epoch``, ``seed``, ``time``, ``cfg`` (text of the config),
            ``stage`` and ``ranks`` of ZeRO, ``samples`` trained in all.
        loss_scaler: state of the float16 loss scale.
        frozen: parameters of the model that were not trained, where that is known.
    """

    kind: str
    path: Path
    weights: Tensors = field(default_factory=dict)
    states: dict[str, dict[str, Any]] | list[dict[str, Any]] = field(default_factory=list)
    meta: dict[str, Any] = field(default_factory=dict)
    loss_scaler: dict[str, Any] = field(default_factory=dict)
    frozen: int | None = None

    @property
    def note(self) -> str:
        """One line that says what it is."""
        meta, parts = self.meta, []
        what = KINDS[self.kind]
        if "stage" in meta:
            what += f" (ZeRO-{meta['stage']}, {meta['ranks']} ranks)" if meta["stage"] else ""
        if "iter" in meta:
            parts.append(f"iteration {meta['iter']}, epoch {meta.get('epoch', '?')}")
        if self.weights:
            parts.append(f"{len(self.weights)} weights")
        if self.states:
            parts.append(f"optimizer state of {len(self.states)}")
        if "time" in meta:
            parts.append(f"written {meta['time']}")
        return f"{self.path}: {what}" + (f", {', '.join(parts)}" if parts else "")


def guess_checkpoint(path: str | Path) -> Foreign:
    """Say what ``path`` is; files of torch and DeepSpeed are read, and no code in them is run.

    Args:
        path: a file or folder; a work folder stands for its newest checkpoint. Folders may have
            moved since: a ``last_checkpoint`` that names a place on another machine stands for what
            has that name beside it.

    Raises:
        CheckpointError: nothing is there, nothing of a known kind, or it is damaged.
    """
    path = Path(path)
    if path.name == POINTER and path.is_file():
        path = path.parent
    if path.is_file():
        return _file(path)
    if path.is_dir():
        return _folder(path)
    bare = path.with_suffix("")
    if path.suffix == ".pth" and bare.is_dir():  # how XTuner's users spell a checkpoint
        return _folder(bare)
    siblings = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
    raise CheckpointError(f"'{path}' does not exist.{did_you_mean(path.name, siblings)}")


def find_original(folder: Path) -> Path | None:
    """Return the newest checkpoint that MMEngine or DeepSpeed has left in a work folder, or None.

    What ``last_checkpoint`` names comes first, then the highest iteration.
    """
    pointer = folder / POINTER
    if pointer.is_file():
        named = Path(pointer.read_text(encoding="utf-8").strip())
        for path in (named, folder / named.name):
            if path.name and path.suffix == ".pth" and path.exists():
                return path
    found = {p: STEP.fullmatch(p.name) for p in (folder.iterdir() if folder.is_dir() else ())}
    steps = sorted((m[1] == "iter", int(m[2]), p) for p, m in found.items() if m)
    return steps[-1][2] if steps else None


def _file(path: Path) -> Foreign:
    if path.suffix == ".safetensors":
        try:
            return Foreign("tensors", path, load_file(path))
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"{path} is damaged: {error}") from error
    if path.suffix not in TORCH_FILES:
        raise CheckpointError(f"{path} is no checkpoint: expected .pth, .pt, .bin or .safetensors")
    loaded = load_torch(path)
    weights = state_dict_of(loaded, path)
    if "meta" not in loaded:
        return Foreign("tensors", path, weights)
    optimizer = loaded.get("optimizer") or {}
    states = optimizer.get("state") or {}
    scaler = optimizer.get("loss_scaler") or {}
    return Foreign(
        "mmengine",
        path,
        weights,
        [states[number] for number in sorted(states)],
        _meta(loaded),
        scaler if isinstance(scaler, dict) else {},
    )


def _meta(client: Mapping[str, Any]) -> dict[str, Any]:
    """Plain values of what MMEngine notes beside the weights."""
    meta = client.get("meta")
    if not isinstance(meta, dict):
        return {}
    keys = ("iter", "epoch", "seed", "time", "cfg", "config", "experiment_name", "mmengine_version")
    found = {k: meta[k] for k in keys if isinstance(meta.get(k), int | str)}
    if "config" in found:  # MMEngine's older name
        found.setdefault("cfg", found.pop("config"))
    return found


def _folder(path: Path) -> Foreign:
    if (path / "state.json").is_file() or (path / "manifest.json").is_file():
        return Foreign("inlay", path)
    if zero := find_zero(path):
        return _zero(read_zero(zero))
    if original := find_original(path):
        return guess_checkpoint(original)
    if (path / POINTER).is_file():
        return Foreign("inlay", locate_own(path))
    if (path / "adapter_config.json").is_file():
        return Foreign("adapter", path)
    if any((path / part).is_dir() for part in PARTS):
        return Foreign("parts", path)
    if (path / "config.json").is_file():
        return Foreign(_model_kind(path / "config.json"), path)
    raise CheckpointError(
        f"'{path}' holds no checkpoint: expected a folder iter_N of Inlay, DeepSpeed's "
        "*_model_states.pt, a .pth file, adapter_config.json, LLaVA parts or config.json"
    )


def _model_kind(config: Path) -> str:
    try:
        values = json.loads(config.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{config} is damaged: {error}") from error
    if "vit_model_type" in values:
        return "nanovlm"
    return "projector" if values.get("model_type") == "projector" else "huggingface"


def _zero(zero: ZeroCheckpoint) -> Foreign:
    meta = _meta(zero.client) | {"stage": zero.stage, "ranks": zero.world_size}
    counters = ("global_steps", "global_samples")
    steps, samples = (zero.client.get(key) for key in counters)
    if isinstance(steps, int) and isinstance(samples, int):
        meta |= {"updates": steps, "samples": samples}
    frozen = sum(shape.numel() for shape in zero.frozen.values()) if zero.frozen else None
    return Foreign("deepspeed", zero.folder, zero.weights, zero.states, meta, frozen=frozen)


def own_names(model: nn.Module, names: Mapping[str, Any], source: Path) -> dict[str, str]:
    """Return, by foreign name, the name that a weight has in ``model``.

    Raises:
        CheckpointError: F-LMM's checkpoint was expected, and it is none.
    """
    if isinstance(model, FrozenGrounding):
        same = {name: name for name in names if not name.startswith(FROZEN)}
        return {old: new for new, old in from_flmm(same, source).items()}
    known = model.state_dict().keys()
    return {name: own_name(name, known) for name in names}


def fit_weights(
    model: nn.Module,
    foreign: Foreign,
    trained: Mapping[str, nn.Parameter],
    shape: Callable[[nn.Parameter], torch.Size],
) -> Tensors:
    """Return the weights of all ``trained`` parameters by their names.

    Weights that the model has and does not train are left out.

    Args:
        shape: tells the whole shape of a parameter.

    Raises:
        CheckpointError: weights are missing, unknown or of another shape; all are told at once.
    """
    if not foreign.weights:
        raise CheckpointError(
            f"{foreign.note}: there is no run in it to go on with, nor weights to load by name"
        )
    renamed = own_names(model, foreign.weights, foreign.path)
    tensors = {renamed[n]: t for n, t in foreign.weights.items() if n in renamed}
    known = model.state_dict().keys()
    problems = []
    if missing := sorted(trained.keys() - tensors.keys()):
        problems.append(f"{len(missing)} trained weights are missing from it ({_few(missing)})")
    if unknown := sorted(n for n in tensors if n not in known):
        hint = did_you_mean(unknown[0], known)
        problems.append(f"{len(unknown)} are unknown here ({_few(unknown)}).{hint}")
    for name, parameter in trained.items():
        if name in tensors and tensors[name].shape != shape(parameter):
            found, wanted = list(tensors[name].shape), list(shape(parameter))
            problems.append(f"'{name}' is {found}, this model has {wanted}")
    if problems:
        raise CheckpointError(f"{foreign.path} does not fit this model: {'; '.join(problems[:5])}")
    return {name: tensors[name] for name in trained}


def _few(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
