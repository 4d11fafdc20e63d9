"""What the frozen networks computed, kept on disk: epochs after the first skip them.

One file of safetensors for each picture (the refiner's embedding) and for each text about it (maps
and hidden rows), in folders named after the networks. Files appear whole, by rename, so any number
of processes may read and write the same folder.
"""

from __future__ import annotations

import logging
import shutil
import zlib
from collections.abc import Sequence
from pathlib import Path

import torch

from inlay.core.errors import InlayError
from inlay.core.io import write_bytes

log = logging.getLogger("inlay")
Tensors = dict[str, torch.Tensor]

_KEY, _SUM = "key", "crc32"


class FeatureCache:
    """Features on disk.

    A file's checksum is looked at twice: when a process first asks whether it is there, so that one
    who prepares nothing to compute it from can rely on it, and whenever it is read.

    Args:
        folder: made when something is kept.
        texts: keep maps and hidden rows as well as picture embeddings. They are many times larger:
            worth it where the frozen model is slow and the disk is large.
        precision: of the computation (autocast); what another one computed is not found.

    Nothing is found before :meth:`bind` has said which networks the features are of.
    """

    def __init__(self, folder: str | Path, texts: bool = False, precision: str = "float32") -> None:
        self.folder = Path(folder).expanduser()
        self.texts, self.precision = texts, precision
        self._homes: dict[str, Path] = {}
        self._whole: set[Path] = set()
        self._damaged: set[Path] = set()
        self._full = False

    def bind(self, images: str | None, texts: str | None) -> None:
        """Say what the features depend on.

        Args:
            images: fingerprint of the refiner's encoder; None: it is trained, or there is none.
            texts: fingerprint of the multimodal model, its processor and the way of merging.
        """
        if images is not None:
            self._homes["image"] = self.folder / f"image-{images}-{self.precision}"
        if texts is not None and self.texts:
            self._homes["text"] = self.folder / f"text-{texts}-{self.precision}"

    @property
    def kinds(self) -> Sequence[str]:
        """What is kept: ``"image"``, ``"text"``, both or neither."""
        return tuple(self._homes)

    def kept_bytes(self, kind: str) -> int:
        """Return the bytes of all that is there of a kind, by this run or another one."""
        files = self._homes[kind].glob("*/*.safetensors")
        return sum(file.stat().st_size for file in files)

    def free_bytes(self) -> int:
        """Return the bytes that may still be written where the folder is, or will be."""
        there = next(p for p in (self.folder, *self.folder.absolute().parents) if p.exists())
        return shutil.disk_usage(there).free

    def has_image(self, key: str) -> bool:
        """Whether a whole embedding of this picture is there."""
        return self._has("image", key)

    def has_text(self, key: str) -> bool:
        """Whether whole maps and hidden rows of this text are there."""
        return self._has("text", key)

    def image(self, key: str) -> Tensors:
        """Return what :meth:`keep_image` was given, memory-mapped, on the CPU.

        Raises:
            InlayError: it is gone or damaged since it was looked for.
        """
        return self._read("image", key)

    def text(self, key: str) -> Tensors:
        """Return what :meth:`keep_text` was given; see :meth:`image`."""
        return self._read("text", key)

    def keep_image(self, key: str, tensors: Tensors) -> None:
        """Keep a picture's embedding. A disk that is full is said once, and nothing more kept."""
        self._keep("image", key, tensors)

    def keep_text(self, key: str, tensors: Tensors) -> None:
        """Keep a text's maps and hidden rows, if ``texts`` are kept; see :meth:`keep_image`."""
        self._keep("text", key, tensors)

    def _path(self, kind: str, key: str) -> Path | None:
        home = self._homes.get(kind)
        return None if home is None else home / key[:2] / f"{key}.safetensors"

    def _has(self, kind: str, key: str) -> bool:
        path = self._path(kind, key)
        if path is None or self._is_whole(path, key):
            return path is not None
        if path.is_file() and path not in self._damaged:
            self._damaged.add(path)
            log.warning("cache: %s is damaged; it is computed anew", path)
        return False

    def _is_whole(self, path: Path, key: str) -> bool:
        if path not in self._whole and path.is_file() and _read(path, key) is not None:
            self._whole.add(path)
        return path in self._whole

    def _read(self, kind: str, key: str) -> Tensors:
        path = self._path(kind, key)
        found = None if path is None else _read(path, key)
        if found is None:
            raise InlayError(
                f"cache: {path} was there and is gone or damaged. Resume the run: what is missing "
                "is computed anew"
            )
        return found

    def _keep(self, kind: str, key: str, tensors: Tensors) -> None:
        path = self._path(kind, key)
        # Several processes may have computed the same; only what is damaged is replaced.
        if path is None or self._full or self._is_whole(path, key):
            return
        from safetensors.torch import save

        plain = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
        try:
            write_bytes(path, save(plain, {_KEY: key, _SUM: _checksum(plain)}))
        except OSError as error:
            self._full = True
            log.warning("cache: cannot write to %s (%s). Nothing more is kept", self.folder, error)


def _read(path: Path, key: str) -> Tensors | None:
    """The tensors of a file, or None if it is not what was written under ``key``."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            about = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError):
        return None
    return tensors if about == {_KEY: key, _SUM: _checksum(tensors)} else None


def _checksum(tensors: Tensors) -> str:
    total = 0
    for name in sorted(tensors):
        tensor = tensors[name]
        total = zlib.crc32(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode(), total)
        flat = tensor.contiguous().reshape(-1).view(torch.uint8)
        total = zlib.crc32(flat.numpy().data, total)
    return f"{total:08x}"


def num_bytes(tensors: Tensors) -> int:
    """Return the bytes of tensors, as a file of the cache holds them."""
    return sum(value.numel() * value.element_size() for value in tensors.values())
