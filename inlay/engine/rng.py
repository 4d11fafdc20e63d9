"""The state of every random generator of this process, as tensors and JSON values."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and torch (all devices)."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def capture() -> dict[str, Any]:
    """Return the state of all generators.

    Keys: ``python`` and ``numpy`` (raw states of those libraries), ``torch`` (uint8 ``[S]``) and,
    with a GPU, ``cuda`` (uint8 ``[S]``).
    """
    state: dict[str, Any] = {
        "python": random.getstate(),
        "numpy": np.random.get_state(legacy=True),
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def restore(state: dict[str, Any]) -> None:
    """Put all generators back to a state from :func:`capture` or :func:`from_saved`."""
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])
    torch.set_rng_state(state["torch"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


def to_saved(state: dict[str, Any]) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Split a captured state into tensors (safetensors) and JSON values."""
    version, words, gauss = state["python"]
    kind, keys, position, has_gauss, cached = state["numpy"]
    tensors = {
        "python": torch.tensor(words, dtype=torch.int64),
        "numpy": torch.from_numpy(np.asarray(keys, dtype=np.int64)),
        "torch": state["torch"],
    }
    if "cuda" in state:
        tensors["cuda"] = state["cuda"]
    values = {
        "python": [version, gauss],
        "numpy": [kind, int(position), int(has_gauss), float(cached)],
    }
    return tensors, values


def from_saved(tensors: dict[str, torch.Tensor], values: dict[str, Any]) -> dict[str, Any]:
    """Inverse of :func:`to_saved`."""
    version, gauss = values["python"]
    kind, position, has_gauss, cached = values["numpy"]
    state: dict[str, Any] = {
        "python": (version, tuple(tensors["python"].tolist()), gauss),
        "numpy": (kind, tensors["numpy"].numpy().astype(np.uint32), position, has_gauss, cached),
        "torch": tensors["torch"],
    }
    if "cuda" in tensors:
        state["cuda"] = tensors["cuda"]
    return state


@contextmanager
def preserved() -> Iterator[None]:
    """Whatever happens inside draws no number from the training's generators."""
    state = capture()
    try:
        yield
    finally:
        restore(state)
