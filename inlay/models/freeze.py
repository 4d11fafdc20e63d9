"""Parts of an image-text-to-text model by name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from inlay.core.errors import ModelError, did_you_mean

PARTS = {
    "projector": (
        "visual.merger",
        "visual.deepstack_merger_list",
        "multi_modal_projector",
        "connector",
        "aligner",
        "image_newline",
        "high_res_vision_neck",
        "high_res_vision_proj",
        "high_res_vision_alpha",
    ),
    "vision": ("visual", "vision_tower", "vision_model", "high_res_vision_model"),
    "language": ("language_model", "text_model", "lm_head"),
}
"""Module paths of each part over all families; the first match decides."""


def freeze_parts(model: nn.Module, names: Sequence[str]) -> set[str]:
    """Stop training parts of ``model``.

    Args:
        model: a transformers image-text-to-text model, not yet wrapped.
        names: ``"vision"`` (without what merges its patches), ``"projector"``, ``"language"``, or
            module paths such as ``"visual.blocks.0"``, with or without the leading ``"model."``.

    Returns:
        Names of the frozen parameters.

    Raises:
        ModelError: a name that matches nothing.
    """
    if isinstance(names, str):
        names = (names,)
    weights = dict(model.named_parameters())
    frozen: set[str] = set()
    for name in names:
        matched = {w for w in weights if _belongs(w, name)}
        if not matched:
            modules = [m.removeprefix("model.") for m, _ in model.named_modules() if m]
            known = [*PARTS, *modules]
            raise ModelError(
                f"freeze: '{name}' is no part of {type(model).__name__}. Known are "
                f"{', '.join(PARTS)} and module paths such as '{modules[0]}'."
                f"{did_you_mean(name, known)}"
            )
        frozen |= matched
    for weight in frozen:
        weights[weight].requires_grad_(False)
    return frozen


def part_of(weight: str) -> str | None:
    """Return the part that a parameter belongs to, by its name."""
    for part, paths in PARTS.items():
        if any(_under(weight, path) for path in paths):
            return part
    return None


def _belongs(weight: str, name: str) -> bool:
    return part_of(weight) == name if name in PARTS else _under(weight, name)


def _under(weight: str, path: str) -> bool:
    plain = weight.removeprefix("model.")
    return f"{plain}.".startswith(f"{path.removeprefix('model.')}.")


def spare(lora: Any, model: nn.Module, frozen: set[str]) -> Any:
    """Return ``lora`` so that it puts no adapter on a module whose weight is in ``frozen``."""
    import copy

    modules = [n for n, m in model.named_modules() if f"{n}.weight" in frozen]
    if lora is None or not modules:
        return lora
    if lora.exclude_modules:
        raise ModelError(
            "freeze and the LoRA's exclude_modules both say where no adapter goes: name all of it "
            "in one of them"
        )
    lora = copy.copy(lora)
    lora.exclude_modules = modules
    return lora
