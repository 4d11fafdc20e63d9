"""Weights of an earlier stage, such as the projector that a pretraining run has trained."""

from __future__ import annotations

import re
from collections.abc import Container
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from inlay.core.errors import ModelError, did_you_mean
from inlay.core.torch_file import load_torch, state_dict_of
from inlay.core.zero import find_zero, read_zero

EXPECTED = (
    "expected a checkpoint folder of Inlay (iter_N), a .pth file or a DeepSpeed folder of XTuner, "
    "a projector/ folder of exported parts, a nanoVLM folder, or a .safetensors file"
)
PARTS = ("projector.", "llm.", "visual_encoder.")
TORCH_FILES = (".pth", ".pt", ".bin")

RENAMED = ((r"^module\.", ""), (r"(^|\.)vision_model\.", r"\1"))
"""What data parallel wrappers put before names, and what vision encoders of transformers 4 had."""


def read_weights(path: str | Path) -> dict[str, torch.Tensor]:
    """Return the weights at ``path`` by the names that they have in a ``LLaVAModel``.

    Args:
        path: a checkpoint folder, a work folder (its last checkpoint), a folder of exported parts
            or its ``projector/``, a ``.safetensors`` file, or a nanoVLM folder. ``iter_300.pth``
            is XTuner's file, or its folder of DeepSpeed's files; where there is neither it stands
            for the folder ``iter_300``.

    Raises:
        ModelError: nothing of that kind is there.
        CheckpointError: a file of XTuner is damaged, or holds what is no data.
    """
    if zero := find_zero(path):
        return read_zero(zero).weights
    if _is_nanovlm(Path(path)):
        from inlay.models.nanovlm import from_nanovlm  # it builds a LLaVAModel, which needs this

        return from_nanovlm(path).state_dict()
    file = _weights_file(Path(path))
    if file.suffix in TORCH_FILES:
        tensors = state_dict_of(load_torch(file), file)
    else:
        try:
            tensors = load_file(file)
        except (OSError, SafetensorError) as error:
            raise ModelError(f"pretrained_pth: {file} is damaged: {error}") from error
    # A projector folder holds its own names, without that of the part.
    own = any(name.startswith(PARTS) for name in tensors)
    return tensors if own else {f"projector.{name}": t for name, t in tensors.items()}


def _is_nanovlm(folder: Path) -> bool:
    config = folder / "config.json"
    return config.is_file() and "vit_model_type" in config.read_text(encoding="utf-8")


def _weights_file(path: Path) -> Path:
    if path.suffix == ".pth" and not path.exists() and path.with_suffix("").is_dir():
        path = path.with_suffix("")
    if path.is_file():
        if path.suffix not in (".safetensors", *TORCH_FILES):
            kind = path.suffix or "plain"
            raise ModelError(f"pretrained_pth '{path}' is a {kind} file: {EXPECTED}")
        return path
    pointer = path / "last_checkpoint"
    if pointer.is_file():
        path = path / pointer.read_text(encoding="utf-8").strip()
    for folder in (path / "projector", path):
        for name in ("model.safetensors", "pytorch_model.bin"):
            if (folder / name).is_file():
                return folder / name
    found = "holds no model.safetensors" if path.is_dir() else "does not exist"
    raise ModelError(f"pretrained_pth '{path}' {found}: {EXPECTED}")


def own_name(name: str, known: Container[str]) -> str:
    """Return the name that a foreign weight has among ``known``, or ``name`` where it has none."""
    own = name
    for pattern, new in RENAMED:
        if own in known:
            break
        own = re.sub(pattern, new, own, count=1)
    return own if own in known else name


def load_matching(
    model: nn.Module, tensors: dict[str, torch.Tensor], source: str
) -> dict[str, torch.Tensor]:
    """Copy the tensors whose names ``model`` has, and return the others.

    Raises:
        ModelError: another shape.
    """
    targets = model.state_dict()
    tensors = {own_name(name, targets): tensor for name, tensor in tensors.items()}
    for name, tensor in tensors.items():
        if name in targets and targets[name].shape != tensor.shape:
            raise ModelError(
                f"pretrained_pth '{source}': '{name}' has shape {list(tensor.shape)}, this model "
                f"has {list(targets[name].shape)}. Use the same backbones and the same projector "
                "as that run."
            )
    with torch.no_grad():
        for name in tensors.keys() & targets.keys():
            targets[name].copy_(tensors[name])
    return {name: t for name, t in tensors.items() if name not in targets}


def refuse_unmatched(model: nn.Module, left: dict[str, torch.Tensor], source: str) -> None:
    """Raise a ``ModelError`` that names the weights which this model has no place for."""
    if left:
        names = sorted(left)
        shown = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
        raise ModelError(
            f"pretrained_pth '{source}' holds {len(names)} weights that this model has no place "
            f"for: {shown}.{did_you_mean(names[0], model.state_dict())}"
        )
