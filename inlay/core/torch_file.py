"""Files of ``torch.save`` (``.pth``, ``.pt``, ``.bin``), read without running anything in them.

Tensors are views of the file, mapped into memory: what is not looked at costs none. Both formats
are read, the zip file of torch >= 1.6 and the one before it.
"""

from __future__ import annotations

import io
import math
import mmap
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from inlay.core.errors import CheckpointError
from inlay.core.unpickle import DataUnpickler, Inert, Named, RefusedError

MAGIC = 0x1950A86A20F9469CFC6C
"""The first value in a file of torch < 1.6."""
PROTOCOL = 1001
ALIGNMENT = 16
"""Bytes. torch begins each storage at a multiple of 64; one that does not is copied."""

STORAGES = {
    "Double": torch.float64,
    "Float": torch.float32,
    "Half": torch.float16,
    "BFloat16": torch.bfloat16,
    "Long": torch.int64,
    "Int": torch.int32,
    "Short": torch.int16,
    "Char": torch.int8,
    "Byte": torch.uint8,
    "Bool": torch.bool,
    "ComplexDouble": torch.complex128,
    "ComplexFloat": torch.complex64,
}

WRAPPERS = ("state_dict", "module", "model")
"""Under which keys weights stand: MMEngine, DeepSpeed, others."""

REFUSED = (
    "Only tensors and plain values are read: whatever else it holds may run code; none was run. "
    "Where you trust the file, save its weights alone with the tool that wrote it: "
    "torch.save(torch.load(FILE, weights_only=False)['state_dict'], NEW)"
)


def load_torch(path: str | Path) -> Any:
    """Return what a file of ``torch.save`` holds, tensors on the CPU, without gradients.

    Parameters become tensors; objects of MMEngine and DeepSpeed become inert dicts (``Inert``).
    Checksums of zip files are verified. The file may be deleted while its tensors are in use, but
    not be written to.

    Raises:
        CheckpointError: missing, damaged, no such file, or it names something that is not data.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            if zipfile.is_zipfile(file):
                return _read_zip(file)
            file.seek(0)
            if file.read(2) == b"PK":
                raise ValueError("a zip file that is cut off")
            return _read_legacy(file)
    except RefusedError as error:
        raise CheckpointError(f"'{path}' is refused: {error}. {REFUSED}") from None
    except (FileNotFoundError, IsADirectoryError):
        found = "is a folder" if path.is_dir() else "does not exist"
        raise CheckpointError(
            f"'{path}' {found}: expected a file of torch.save (.pth, .pt, .bin)"
        ) from None
    except Exception as error:  # broken pickles raise whatever their opcodes stumble on
        raise CheckpointError(f"'{path}' is damaged, or no file of torch.save: {error}") from error


def state_dict_of(loaded: Any, path: str | Path) -> dict[str, torch.Tensor]:
    """Return the weights by name, without what training tools put around them.

    Args:
        loaded: what ``load_torch`` has returned.
        path: of the file, for the error.

    Raises:
        CheckpointError: there are no tensors by name in it.
    """
    state = loaded
    for key in WRAPPERS:
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
            break
    if not isinstance(state, dict) or not _all_tensors(state):
        raise CheckpointError(
            f"'{path}' holds something else: expected tensors by name, alone or under one of "
            f"{', '.join(WRAPPERS)}"
        )
    return state


def _all_tensors(state: dict[Any, Any]) -> bool:
    return all(isinstance(k, str) and isinstance(t, torch.Tensor) for k, t in state.items())


@dataclass(frozen=True, slots=True)
class _Kind:
    """A class of storages: the type of its elements; None for bytes that name no type."""

    dtype: torch.dtype | None


@dataclass(frozen=True, slots=True)
class _Storage:
    """Bytes of a storage, uint8 ``[nbytes]``, and the type that they were stored as."""

    data: torch.Tensor
    dtype: torch.dtype | None


def _read_zip(file: Any) -> Any:
    archive = _Archive(file)
    data = io.BytesIO(archive.bytes_of("data.pkl"))

    def storage(pid: Any) -> _Storage:
        kind, key, size = _identification(pid)
        return _Storage(archive.storage(key, size), kind.dtype)

    return DataUnpickler(data, NAMES, storage).load()


class _Archive:
    """The entries of a zip file: read through a private map of the file, never unpacked."""

    def __init__(self, file: Any) -> None:
        self.entries = {e.filename: e for e in zipfile.ZipFile(file).infolist()}
        roots = [n.removesuffix("data.pkl") for n in self.entries if n.endswith("/data.pkl")]
        if len(roots) != 1:
            raise ValueError("a zip file without one data.pkl")
        self.root = roots[0]
        if f"{self.root}constants.pkl" in self.entries:
            raise RefusedError("it is a TorchScript program")
        # Private: tensors may be written to, the file may not.
        self.map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        self.storages: dict[str, torch.Tensor] = {}
        if f"{self.root}byteorder" in self.entries and self.bytes_of("byteorder") != b"little":
            raise ValueError("its numbers are big-endian")

    def _place(self, name: str) -> tuple[int, int]:
        """Begin and size of an entry's bytes, verified.

        Raises:
            ValueError: missing, compressed, cut off, or another checksum.
        """
        entry = self.entries.get(self.root + name)
        if entry is None:
            raise ValueError(f"'{name}' is missing from it")
        if entry.compress_type != zipfile.ZIP_STORED:
            raise ValueError(f"'{name}' is compressed, which torch.save does not do")
        head = entry.header_offset
        names, extra = (
            int.from_bytes(self.map[head + i : head + i + 2], "little") for i in (26, 28)
        )
        begin, size = head + 30 + names + extra, entry.file_size
        if begin + size > len(self.map):
            raise ValueError(f"'{name}' is cut off")
        with memoryview(self.map) as view, view[begin : begin + size] as part:
            if zlib.crc32(part) != entry.CRC:
                raise ValueError(f"'{name}' does not match its checksum")
        return begin, size

    def bytes_of(self, name: str) -> bytes:
        begin, size = self._place(name)
        return self.map[begin : begin + size]

    def storage(self, key: str, nbytes: int) -> torch.Tensor:
        """uint8 ``[nbytes]``; the same tensor for the same key."""
        if key not in self.storages:
            begin, size = self._place(f"data/{key}")
            if size < nbytes:
                raise ValueError(f"storage {key} has {size} bytes, expected {nbytes}")
            self.storages[key] = self._tensor(begin, size)
        return self.storages[key]

    def _tensor(self, begin: int, size: int) -> torch.Tensor:
        if not size:
            return torch.empty(0, dtype=torch.uint8)
        data = torch.frombuffer(self.map, dtype=torch.uint8, count=size, offset=begin)
        return data if begin % ALIGNMENT == 0 else data.clone()


def _read_legacy(file: Any) -> Any:
    """Magic number, protocol, system, value, keys, one pickle after another; then the storages."""
    total = file.seek(0, io.SEEK_END)
    file.seek(0)
    if DataUnpickler(file).load() != MAGIC:
        raise ValueError("it begins neither as a zip file nor as torch's older format")
    if DataUnpickler(file).load() != PROTOCOL:
        raise ValueError("an unknown version of torch's older format")
    if not DataUnpickler(file).load().get("little_endian", True):
        raise ValueError("its numbers are big-endian")
    storages: dict[str, torch.Tensor] = {}
    widths: dict[str, int] = {}

    def storage(pid: Any) -> _Storage:
        kind, key, size = _identification(pid)
        if len(pid) > 5 and pid[5] is not None:
            raise ValueError("it holds views of storages, as torch < 0.4 wrote them")
        if key not in storages:
            if size > total:
                raise ValueError(f"storage {key} is cut off")
            storages[key] = torch.zeros(size, dtype=torch.uint8)
            widths[key] = kind.dtype.itemsize if kind.dtype else 1
        return _Storage(storages[key], kind.dtype)

    value = DataUnpickler(file, NAMES, storage).load()
    for key in DataUnpickler(file).load():
        data = storages[key]
        count = int.from_bytes(file.read(8), "little")
        if count * widths[key] != len(data) or file.readinto(data.numpy()) != len(data):
            raise ValueError(f"storage {key} is cut off")
    return value


def _identification(pid: Any) -> tuple[_Kind, str, int]:
    """Kind, key and bytes of a storage: ``("storage", kind, key, device, elements)``."""
    word, kind, key, _, count = pid[:5]
    if word != "storage" or not isinstance(kind, _Kind) or type(count) is not int or count < 0:
        raise RefusedError("it refers to something that is no storage of a tensor")
    return kind, str(key), count * (kind.dtype.itemsize if kind.dtype else 1)


def _tensor(
    storage: Any, offset: int, size: Any, stride: Any, *_rest: Any, dtype: torch.dtype | None = None
) -> torch.Tensor:
    """Stand in for ``_rebuild_tensor_v2``: a view of a storage.

    Args:
        offset, size, stride: in elements; a view that leaves the storage is an error.
    """
    if not isinstance(storage, _Storage):
        raise RefusedError("it makes a tensor of something that is no storage")
    dtype = dtype or storage.dtype
    if not isinstance(dtype, torch.dtype):
        raise RefusedError("it makes a tensor of no type")
    size, stride = tuple(size), tuple(stride)
    if any(type(n) is not int or n < 0 for n in (offset, *size, *stride)):
        raise ValueError("a tensor with a negative size")
    count = len(storage.data) // dtype.itemsize
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if math.prod(size) and last >= count:
        raise ValueError(f"a tensor of {list(size)} leaves its storage of {count} elements")
    flat = storage.data[: count * dtype.itemsize].view(dtype)
    return flat.as_strided(size, stride, offset if math.prod(size) else 0)


def _tensor_v3(
    storage: Any, offset: int, size: Any, stride: Any, _grad: Any, _hooks: Any, dtype: Any, *_: Any
) -> torch.Tensor:
    return _tensor(storage, offset, size, stride, dtype=dtype)


def _first(value: Any, *_: Any) -> Any:
    """Stand in for what wraps a tensor: the tensor."""
    return value


def _typed(made_by: Any, _type: Any, arguments: Any, _attributes: Any) -> torch.Tensor:
    """Stand in for ``_rebuild_from_type_v2``: the tensor, without the attributes set on it."""
    makers = {_tensor, _tensor_v3, _first}
    if getattr(made_by, "make", None) not in makers:
        raise RefusedError("it makes a tensor with something unknown")
    return made_by.make(*arguments)


def _size(items: Any = ()) -> torch.Size:
    return torch.Size(items)


def _device(kind: str, index: int | None = None) -> str:
    return kind if index is None else f"{kind}:{index}"


def _dtypes() -> dict[str, torch.dtype]:
    return {str(v): v for v in vars(torch).values() if isinstance(v, torch.dtype)}


ZERO_STAGE = "deepspeed.runtime.zero.config.ZeroStageEnum"
ZERO_STAGES = {"disabled": 0, "optimizer_states": 1, "gradients": 2, "weights": 3, "max_stage": 3}


def _attribute(owner: Any, name: str) -> Any:
    """Stand in for ``getattr``, by which the first releases of Python 3.11 write a ZeRO stage."""
    if isinstance(owner, Named) and owner.name == ZERO_STAGE and name in ZERO_STAGES:
        return ZERO_STAGES[name]
    return Inert("builtins.getattr", (owner, name))


def _no_call(*_: Any) -> Any:
    raise RefusedError("it calls a class of tensors")


NAMES: dict[str, Callable[..., Any] | _Kind | torch.dtype] = {
    **_dtypes(),
    **{f"torch.{name}Storage": _Kind(dtype) for name, dtype in STORAGES.items()},
    "torch.storage.UntypedStorage": _Kind(None),
    "torch.UntypedStorage": _Kind(None),
    "torch.Tensor": _no_call,
    "torch.nn.parameter.Parameter": _no_call,
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _tensor_v3,
    "torch._utils._rebuild_parameter": _first,
    "torch._utils._rebuild_parameter_with_state": _first,
    "torch._tensor._rebuild_from_type_v2": _typed,
    "torch.Size": _size,
    "torch.device": _device,
    ZERO_STAGE: int,
    "builtins.getattr": _attribute,
}
"""What torch's files name, and what stands in for it."""
