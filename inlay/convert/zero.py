"""A folder of DeepSpeed's ZeRO becomes one file of weights."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file

from inlay.core.errors import CheckpointError
from inlay.core.io import fsync_dir, temporary_name
from inlay.core.zero import find_zero, read_zero

SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")


def merge_zero(folder: str | Path, out: str | Path) -> int:
    """Write the trained weights of all ranks, whole, by the names that they have there.

    Args:
        folder: DeepSpeed's files of one step (XTuner's ``iter_N.pth/``), or the folder above it
            with ``latest``.
        out: ``NAME.safetensors``, or ``NAME.pth`` for tools that expect a file of torch. It appears
            whole or not at all.

    Returns:
        The number of weights.

    Raises:
        CheckpointError: no such folder, a damaged or incomplete one, or ``out`` of another kind.
    """
    out = Path(out)
    if out.suffix not in SUFFIXES:
        raise CheckpointError(f"'{out}': name a file to write, {' or '.join(SUFFIXES[:2])}")
    found = find_zero(folder)
    if found is None:
        state = "holds no" if Path(folder).is_dir() else "does not exist: expected a folder with"
        raise CheckpointError(f"'{folder}' {state} files of DeepSpeed (*_optim_states.pt)")
    weights = {name: t.contiguous() for name, t in read_zero(found).weights.items()}
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_name(out)
    try:
        if out.suffix == ".safetensors":
            save_file({n: t.clone() for n, t in weights.items()}, temporary, {"format": "pt"})
        else:
            torch.save(weights, temporary)
        temporary.replace(out)
    except OSError as error:
        raise CheckpointError(f"could not write {out}: {error.strerror or error}") from error
    finally:
        temporary.unlink(missing_ok=True)
    fsync_dir(out.parent)
    return len(weights)
