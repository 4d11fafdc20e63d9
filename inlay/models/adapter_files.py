"""Adapters as XTuner 0.1 writes them: ``adapter_model.bin``, and names of older encoders."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from inlay.core.torch_file import load_torch, state_dict_of

SAFE, TORCH = "adapter_model.safetensors", "adapter_model.bin"
BEFORE = "base_model.model."
"""What peft puts before every name."""
OLD_ENCODER = "vision_model."
"""What vision encoders had before every name up to transformers 4."""


@contextmanager
def readable(path: str, model: Any) -> Iterator[str]:
    """Yield an adapter that peft can load onto ``model`` as it is: ``path`` itself, or a copy.

    A copy is made of ``adapter_model.bin``, which is read without running anything in it, and of
    weights under names that ``model`` no longer has.

    Args:
        path: folder or hub name.

    Raises:
        CheckpointError: the file is damaged, or holds what is no data.
    """
    folder = Path(path)
    is_safe = (folder / SAFE).is_file()
    is_renamed = not any(name.startswith(OLD_ENCODER) for name, _ in model.named_modules())
    if not (is_safe or (folder / TORCH).is_file()):
        yield path
        return
    if is_safe:
        tensors = load_file(folder / SAFE)
    else:
        tensors = state_dict_of(load_torch(folder / TORCH), folder / TORCH)
    old = BEFORE + OLD_ENCODER
    is_old = is_renamed and any(name.startswith(old) for name in tensors)
    if is_safe and not is_old:
        yield path
        return
    with tempfile.TemporaryDirectory() as scratch:
        if is_old:
            tensors = {name.replace(old, BEFORE, 1): t for name, t in tensors.items()}
        save_file({n: t.contiguous() for n, t in tensors.items()}, Path(scratch) / SAFE)
        shutil.copy(folder / "adapter_config.json", scratch)
        yield scratch
