"""Rewrite a model with one tensor in each weight file."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from inlay.convert.folder import staged
from inlay.core.errors import ModelError

if TYPE_CHECKING:
    import torch

INDEX = "model.safetensors.index.json"
SOURCES = {
    "model.safetensors": INDEX,
    "pytorch_model.bin": "pytorch_model.bin.index.json",
}
"""Weights in one file, and the index of those in several; the first that is there is read."""


def split(src: str | Path, dst: str | Path) -> Path:
    """Write the model at ``src`` to ``dst`` with one safetensors file per tensor and an index.

    All other files are copied.

    Args:
        src: model folder with safetensors weights or, read without running what they name, files of
            ``torch.save``; in one file, or in shards with an index.
        dst: folder to write.

    Raises:
        CheckpointError: a file is damaged or refused.
        ModelError: ``src`` has no weights, or its index names missing files.
    """
    from safetensors.torch import save_file

    src = Path(src)
    files, known = _files(src)
    weight_map: dict[str, str] = {}
    sizes: dict[str, int] = {}
    with staged(dst) as folder:
        for file in files:
            for name, tensor in _tensors(file):
                number = len(sizes) + 1
                save_file({name: tensor}, folder / f"{number}.safetensors", {"format": "pt"})
                sizes[name] = tensor.nbytes
        for number, name in enumerate(sizes, start=1):
            weight_map[name] = f"model-{number:05d}-of-{len(sizes):05d}.safetensors"
            (folder / f"{number}.safetensors").rename(folder / weight_map[name])
        index = {"metadata": {"total_size": sum(sizes.values())}, "weight_map": weight_map}
        (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
        for file in src.iterdir():
            if file.is_file() and file.name not in known:
                shutil.copyfile(file, folder / file.name)
    return Path(dst)


def _files(src: Path) -> tuple[list[Path], set[str]]:
    """The weight files, and the names of all that is not to be copied."""
    for single, index in SOURCES.items():
        if (src / index).is_file():
            names = set(json.loads((src / index).read_text("utf-8"))["weight_map"].values())
        elif (src / single).is_file():
            names = {single}
        else:
            continue
        files = [src / name for name in sorted(names)]
        lost = [str(file) for file in files if not file.is_file()]
        if lost:
            raise ModelError(
                f"the index of '{src}' names files that are missing: {', '.join(lost)}"
            )
        return files, {index, *names}
    raise ModelError(
        f"expected weights in '{src}' ({', '.join(SOURCES)}, or shards of these), found none"
    )


def _tensors(file: Path) -> Iterator[tuple[str, torch.Tensor]]:
    from safetensors import safe_open

    from inlay.core.torch_file import load_torch, state_dict_of

    if file.suffix == ".safetensors":
        with safe_open(file, framework="pt") as tensors:
            for name in sorted(tensors.keys()):
                yield name, tensors.get_tensor(name)
        return
    for name, tensor in sorted(state_dict_of(load_torch(file), file).items()):
        yield name, tensor.contiguous().clone()  # a file must not hold what it shares with others
