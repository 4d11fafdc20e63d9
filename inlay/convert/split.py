"""Rewrite a model with one tensor in each weight file."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from inlay.convert.folder import staged
from inlay.core.errors import ModelError

INDEX = "model.safetensors.index.json"


def split(src: str | Path, dst: str | Path) -> Path:
    """Write the model at ``src`` to ``dst`` with one safetensors file per tensor and an index.

    All other files are copied.

    Args:
        src: model folder with ``model.safetensors``, or shards and their index.
        dst: folder to write.

    Raises:
        ModelError: ``src`` has no safetensors weights, or its index names missing files.
    """
    from safetensors import safe_open
    from safetensors.torch import save_file

    src = Path(src)
    homes = _homes(src)
    weight_map: dict[str, str] = {}
    total = 0
    with staged(dst) as folder:
        for number, name in enumerate(sorted(homes), start=1):
            with safe_open(homes[name], framework="pt") as tensors:
                tensor = tensors.get_tensor(name)
            weight_map[name] = f"model-{number:05d}-of-{len(homes):05d}.safetensors"
            save_file({name: tensor}, folder / weight_map[name], {"format": "pt"})
            total += tensor.nbytes
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
        weights = {INDEX, *(file.name for file in homes.values())}
        for file in src.iterdir():
            if file.is_file() and file.name not in weights:
                shutil.copyfile(file, folder / file.name)
    return Path(dst)


def _homes(src: Path) -> dict[str, Path]:
    """Tensor name -> file that holds it."""
    from safetensors import safe_open

    single, index = src / "model.safetensors", src / INDEX
    if index.is_file():
        names = json.loads(index.read_text("utf-8"))["weight_map"]
        homes = {name: src / file for name, file in names.items()}
    elif single.is_file():
        with safe_open(single, framework="pt") as tensors:
            homes = dict.fromkeys(tensors.keys(), single)
    else:
        found = sorted(file.name for file in src.glob("*.bin")) if src.is_dir() else []
        note = f" It has {found}: save it as safetensors first." if found else ""
        raise ModelError(f"expected safetensors weights in '{src}', found none.{note}")
    lost = sorted({str(file) for file in homes.values() if not file.is_file()})
    if lost:
        raise ModelError(f"the index of '{src}' names files that are missing: {', '.join(lost)}")
    return homes
