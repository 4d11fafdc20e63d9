"""A trained grounding model as a light folder: what was trained, its refiner, its config.

The folder is a checkpoint without the optimizer (``config.py``, ``model.safetensors``,
``manifest.json``), so that whatever opens a checkpoint opens it, with the whole refiner beside it
in ``refiner/``. The multimodal model is not in it: it was not changed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from inlay import __version__
from inlay.convert.card import is_hub_name
from inlay.convert.folder import RECORD, staged
from inlay.convert.probe import digest, environment, read_weights
from inlay.convert.record import columns_of
from inlay.convert.to_hf import write_card
from inlay.core.errors import ModelError
from inlay.engine import checkpoint as ckpt
from inlay.engine.optim import trainable
from inlay.models.grounding.model import FrozenGrounding

KIND, REFINER = "grounding", "refiner"
PHRASES = ("the red circle", "a dog behind the fence")
"""What the probe asks for."""
SIZE = (96, 64)
"""Width and height of the probe's picture in px: no square, and small."""


def probe_picture() -> Any:
    """Return a picture (PIL, RGB) that every machine draws alike."""
    from PIL import Image

    width, height = SIZE
    steps = (number * 7919 % 2003 for number in range(3 * width * height))
    return Image.frombytes("RGB", SIZE, bytes(step * 255 // 2002 for step in steps))


def round_weights(model: FrozenGrounding, dtype: torch.dtype) -> None:
    """Give everything that is exported the values that it has in ``dtype``, in place; what it is
    computed in stays.

    Raises:
        ModelError: a weight is not finite in ``dtype``.
    """
    with torch.no_grad():
        for name, tensor in _exported(model):
            rounded = tensor.to(dtype)
            if not rounded.isfinite().all():
                raise ModelError(
                    f"weight {name} is not finite in {dtype}. Export in float32 (--fp32), or an "
                    "earlier checkpoint."
                )
            tensor.copy_(rounded)


def flmm_weights(model: FrozenGrounding) -> dict[str, torch.Tensor]:
    """Return what a checkpoint of F-LMM holds, by our names: what was trained, and the refiner's
    buffers."""
    refiner = () if model.refiner is None else model.refiner.named_buffers(prefix="refiner")
    buffers = {name: b for name, b in refiner if name.startswith("refiner.sam.")}
    return {name: p.detach() for name, p in trainable(model).items()} | buffers


def write_grounding(
    model: FrozenGrounding,
    out_dir: str | Path,
    *,
    config: str,
    dtype: torch.dtype,
    logits: torch.Tensor,
    base: str,
    card: Mapping[str, Any],
) -> None:
    """Write a model whose weights ``round_weights`` has rounded to ``dtype``.

    The folder appears complete or not at all; an earlier export is replaced.

    Args:
        config: text of the resolved config.
        logits: ``[M, H, W]`` of the probe, to be compared with when it is read.
        base: hub name or folder of the multimodal model.
        card: facts for the model card, name to value.

    Raises:
        ModelError: the target holds other files.
    """
    weights = {name: p.detach().to(dtype) for name, p in trainable(model).items()}
    with staged(out_dir) as folder:
        ckpt.write(folder, ckpt.Checkpoint({"model": weights}, {"weights_only": True}, config))
        if model.refiner is not None:
            sam = model.refiner.sam
            # Copies: transformers refuses to save two names of one tensor.
            state = {name: t.to(dtype, copy=True) for name, t in sam.state_dict().items()}
            sam.save_pretrained(folder / REFINER, state_dict=state)
        name = base if is_hub_name(base) else Path(base).name
        facts = {**card, "Trained parameters": f"{sum(w.numel() for w in weights.values()):,}"}
        write_card(folder, Path(out_dir).name, KIND, name, facts)
        _write_record(folder, logits, model.device.type)


def _write_record(folder: Path, logits: torch.Tensor, device: str) -> None:
    flat = logits.float().flatten()
    record = {
        "inlay": __version__,
        "kind": KIND,
        "weights_sha256": read_weights(folder)[0],
        "environment": environment(),
        "device": device,
        "phrases": PHRASES,
        "logits_sha256": digest(flat),
        "logits": flat[columns_of(len(flat))].tolist(),
    }
    (folder / RECORD).write_text(json.dumps(record, indent=1), encoding="utf-8")


def difference(
    record: Mapping[str, Any], logits: torch.Tensor, reference: torch.Tensor | None = None
) -> float:
    """Return the largest difference of the probe's logits ``[M, H, W]`` from ``reference``, by
    default from what a record holds of them: a digest of all, and some values."""
    flat = logits.float().flatten()
    if reference is not None:
        return float((flat - reference.float().flatten()).abs().max())
    if digest(flat) == record["logits_sha256"]:
        return 0.0
    recorded = torch.tensor(record["logits"])
    if len(columns_of(len(flat))) != len(recorded):
        return float("inf")
    sampled = float((flat[columns_of(len(flat))] - recorded).abs().max())
    # Equal where sampled, yet not equal everywhere: still a difference.
    return sampled or torch.finfo(torch.float32).tiny


def _exported(model: FrozenGrounding) -> Iterator[tuple[str, torch.Tensor]]:
    yield from trainable(model).items()
    if model.refiner is not None:
        for name, tensor in model.refiner.sam.state_dict().items():
            if tensor.is_floating_point():
                yield f"refiner.sam.{name}", tensor
