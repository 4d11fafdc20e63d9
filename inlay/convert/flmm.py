"""Checkpoints of F-LMM (arXiv 2406.05821): what it trains, by its names and by ours.

Mask head, ``text_proj`` and ``text_layer_weights`` are called the same; SAM is ``sam.model`` there,
with the names of segment-anything, and ``refiner.sam`` here, with those of transformers.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

import torch
from torch import nn

from inlay.core.errors import CheckpointError, did_you_mean
from inlay.core.torch_file import load_torch, state_dict_of
from inlay.core.zero import find_zero, read_zero
from inlay.models.grounding.sam_names import from_hf, to_hf

Tensors = dict[str, torch.Tensor]
T = TypeVar("T")

THEIR_SAM, OUR_SAM = "sam.model.", "refiner.sam."
SAME = ("mask_head.", "text_proj.", "text_layer_weights")
FROZEN = ("deepseek_vl.", "llava.", "mgm.", "llm.", "visual_encoder.", "projector.")
"""How the language models of F-LMM are called; their weights do not change, so none is read."""

MEASURES = {
    "mask_head.encoder.0.0.convs.0.conv.weight": (1, "attention maps (layers x heads x levels)"),
    "text_proj.weight": (1, "hidden values per token"),
    "text_layer_weights": (0, "layers"),
}
"""Which axis of which weight tells language models apart, and what it counts."""


def read_flmm(path: str | Path) -> Tensors:
    """Return the weights of an F-LMM checkpoint by the names that they have in ``FrozenGrounding``.

    Args:
        path: a ``.pth`` file as published, or as MMEngine writes it (``state_dict`` beside meta
            data), or a folder of DeepSpeed's ZeRO. No code in it is run.

    Raises:
        CheckpointError: missing, damaged, not of F-LMM, or with more in it than plain values.
    """
    if zero := find_zero(path):
        return from_flmm(read_zero(zero).weights, zero)
    return from_flmm(state_dict_of(load_torch(path), path), path)


def from_flmm(state: Mapping[str, T], path: str | Path) -> dict[str, T]:
    """Return what F-LMM's names stand for by the names of ``FrozenGrounding``.

    Raises:
        CheckpointError: ``path`` (named in the error) is no checkpoint of F-LMM.
    """
    ours: dict[str, T] = {}
    sam: dict[str, T] = {}
    unknown = []
    for name, tensor in state.items():
        name = name.removeprefix("module.")
        if name.startswith(SAME):
            ours[name] = tensor
        elif name.startswith(THEIR_SAM):
            sam[name.removeprefix(THEIR_SAM)] = tensor
        elif not name.startswith(FROZEN):
            unknown.append(name)
    if unknown or not any(name.startswith("mask_head.") for name in ours):
        found = ", ".join(f"'{name}'" for name in sorted(unknown or state)[:3]) or "nothing"
        parts = [part.partition(".")[0] for part in (*SAME, THEIR_SAM)]
        hint = did_you_mean(unknown[0].partition(".")[0], parts) if unknown else ""
        raise CheckpointError(
            f"'{path}' is no checkpoint of F-LMM: expected mask_head.*, text_proj.*, "
            f"text_layer_weights and {THEIR_SAM}*, found {found}.{hint}"
        )
    try:
        return ours | {OUR_SAM + name: tensor for name, tensor in to_hf(sam).items()}
    except KeyError as error:
        raise CheckpointError(f"'{path}': {error} is no weight of a SAM") from error


def write_flmm(state: Mapping[str, torch.Tensor], path: str | Path) -> Path:
    """Write weights of a ``FrozenGrounding`` as an F-LMM checkpoint: one flat dict of tensors.

    Args:
        state: ``mask_head.*``, ``text_proj.*``, ``text_layer_weights``, ``refiner.sam.*``.

    Raises:
        CheckpointError: F-LMM has no place for a weight.
    """
    theirs, sam = {}, {}
    for name, tensor in state.items():
        tensor = tensor.detach().cpu().contiguous()
        if name.startswith(SAME):
            theirs[name] = tensor
        elif name.startswith(OUR_SAM):
            sam[name.removeprefix(OUR_SAM)] = tensor
        else:
            raise CheckpointError(
                f"F-LMM's checkpoints have no place for '{name}': they hold a mask head, "
                "text_proj, text_layer_weights and a SAM (SamRefiner), nothing else"
            )
    try:
        theirs |= {THEIR_SAM + name: tensor for name, tensor in from_hf(sam).items()}
    except KeyError as error:
        raise CheckpointError(f"F-LMM refines with SAM; {error} is no weight of it") from error
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(theirs, path)
    return path


def load_flmm(model: nn.Module, path: str | Path) -> None:
    """Load an F-LMM checkpoint into a ``FrozenGrounding``.

    Parts that the model does not have (no refiner, for example) are left out; of those that it has,
    every trained weight must be there.

    Raises:
        CheckpointError: unreadable, of another language model, or incomplete; see ``read_flmm``.
    """
    state = read_flmm(path)
    parameters = dict(model.named_parameters(remove_duplicate=False))
    own = parameters | dict(model.named_buffers(remove_duplicate=False))
    check_lmm(state, own, str(path))
    parts = {name.partition(".")[0] for name in own}
    state = {name: t for name, t in state.items() if name.partition(".")[0] in parts}
    ours = (*SAME, OUR_SAM.partition(".")[0])
    wanted = {n for n, p in parameters.items() if p.requires_grad and n.startswith(ours)}
    if missing := sorted(wanted - state.keys()):
        raise CheckpointError(
            f"'{path}' lacks {len(missing)} weights of this model: {', '.join(missing[:3])}. Give "
            "the model the same refiner and mask head as that run."
        )
    for name, tensor in state.items():
        if name not in own or own[name].shape != tensor.shape:
            here = f"has {list(own[name].shape)}" if name in own else "has no such weight"
            raise CheckpointError(
                f"'{path}': '{name}' is {list(tensor.shape)}, this model {here}. Give the model "
                "the same refiner and mask head as that run."
            )
    with torch.no_grad():
        for name, tensor in state.items():
            own[name].copy_(tensor)


def check_lmm(
    state: Mapping[str, torch.Tensor], own: Mapping[str, torch.Tensor], source: str
) -> None:
    """Refuse weights that were trained on another language model.

    Args:
        state, own: weights of the checkpoint and of the model, by our names.
        source: of ``state``, for the message.

    Raises:
        CheckpointError: names both sides.
    """
    theirs, ours = [], []
    for name, (axis, what) in MEASURES.items():
        if name in state and name in own and state[name].shape[axis] != own[name].shape[axis]:
            theirs.append(f"{state[name].shape[axis]} {what}")
            ours.append(f"{own[name].shape[axis]} {what}")
    if theirs:
        raise CheckpointError(
            f"'{source}' was trained on another language model: it expects {', '.join(theirs)}; "
            f"this one has {', '.join(ours)}. Load it with the model that it was trained on."
        )
