"""What a model is, in fingerprints: a resumed run must find the same one."""

from __future__ import annotations

import hashlib

import torch
from torch import nn

PROBES = 64
"""Values read per frozen tensor: enough to tell two checkpoints apart, cheap on 70B weights."""


def model_identity(model: nn.Module) -> dict[str, str]:
    """Return ``architecture`` (names, shapes, what is trained) and ``base_weights``.

    ``base_weights`` covers what a checkpoint does not hold, the frozen parameters, by evenly spaced
    probes; it is ``"trained"`` when nothing is frozen.
    """
    shape = hashlib.sha256()
    base = hashlib.sha256()
    frozen = 0
    for name, p in sorted(model.named_parameters(), key=lambda item: item[0]):
        shape.update(f"{name} {tuple(p.shape)} {p.requires_grad}\n".encode())
        if not p.requires_grad:
            frozen += 1
            base.update(f"{name} {p.dtype} ".encode())
            base.update(_probe(p))
    return {
        "architecture": shape.hexdigest()[:16],
        "base_weights": base.hexdigest()[:16] if frozen else "trained",
    }


def _probe(tensor: torch.Tensor) -> bytes:
    flat = tensor.detach().reshape(-1)
    if flat.numel() > PROBES:
        where = torch.linspace(0, flat.numel() - 1, PROBES, dtype=torch.float64).long()
        flat = flat[where.to(flat.device)]
    return flat.to(torch.float32).cpu().numpy().tobytes()
