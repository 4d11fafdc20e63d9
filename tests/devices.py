"""A GPU that is not there: tensors that say they are on one, and fail where a real one would.

``PretendGPU`` makes device mistakes visible on a CPU. What is moved "to cuda" inside of it is
computed on the CPU, but says ``cuda:0`` as its device, hands that on to all that is made of it, and
refuses to meet a tensor of the CPU in one operation, as CUDA does. What the CPU would wait for the
GPU for is counted.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch._functorch import vmap
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_iter, tree_map_only

GPU = torch.device("cuda", 0)
READS = ("item", "tolist", "__bool__", "__int__", "__float__", "__index__", "__contains__")
READS += ("nonzero", "argwhere", "unique", "_unique2", "unique_consecutive", "masked_select")
READS += ("bincount", "equal", "allclose", "unique_dim", "_return_output", "_return_counts")
"""Functions whose values, or the shape of whose result, the CPU has to wait for."""
MOVES = ("to", "cuda", "cpu", "copy_", "type_as", "__set__", "_has_compatible_shallow_copy_type")
"""Functions that may see both sides."""


class PretendGPU(TorchFunctionMode):
    """Inside of it "cuda" is a device whose tensors lie on the CPU.

    Attributes:
        waits: how often the CPU waited for the device, or for a copy to it, by the line of the
            package that asked for it; copies from pinned memory (``non_blocking``) are not counted.
    """

    def __init__(self) -> None:
        super().__init__()
        self.waits: Counter[str] = Counter()
        self._patches: list[Any] = []

    def __enter__(self) -> PretendGPU:
        for name in ("_add_batch_dim", "_remove_batch_dim"):  # vmap does without these functions
            self._patches.append(patch.object(vmap, name, _marking(getattr(vmap, name))))
            self._patches[-1].start()
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        while self._patches:
            self._patches.pop().stop()

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        name = getattr(func, "__name__", "")
        if name == "__get__":
            return self._read(func, args)
        leaves = [x for x in tree_iter((args, kwargs)) if isinstance(x, Tensor)]
        inside = any(map(on_gpu, leaves))
        args, kwargs, target = _target(name, args, kwargs)
        if target is None and not inside:
            return func(*args, **kwargs)
        if name == "numpy" or name == "__array__":
            raise TypeError("can't convert cuda:0 device type tensor to numpy")
        if name not in MOVES:
            self._check(name, args, kwargs, leaves)
        self._count(name, args, kwargs, inside, target)
        out = func(*args, **kwargs)
        if name == "__set__":
            _mark(args[0], inside)
        if not any(isinstance(x, Tensor) for x in tree_iter(out)):
            return out
        there = inside if target is None else target
        return tree_map_only(Tensor, lambda x: _placed(x, there, leaves), out)

    def _read(self, func: Any, args: tuple[Any, ...]) -> Any:
        """An attribute of a tensor."""
        name, tensor = func.__self__.__name__, args[0]
        if not on_gpu(tensor):
            return func(*args)
        if name in ("device", "is_cuda", "is_cpu"):
            return {"device": GPU, "is_cuda": True, "is_cpu": False}[name]
        found = func(*args)
        return _mark(found, True) if isinstance(found, Tensor) else found

    def _check(self, name: str, args: Any, kwargs: Any, leaves: list[Tensor]) -> None:
        """Refuse tensors of both sides; a number of the CPU may go anywhere, and an index of the
        CPU into what is on the GPU."""
        if name in ("__getitem__", "__setitem__"):
            index = [x for x in tree_iter(args[1]) if isinstance(x, Tensor)]
            if not on_gpu(args[0]) and any(map(on_gpu, index)):
                raise RuntimeError("indices should be on the CPU, as the indexed tensor is")
            leaves = [args[0], *args[2:]] if name == "__setitem__" else []
            leaves = [x for x in leaves if isinstance(x, Tensor)]
        strict = name in ("cat", "stack", "concat")
        if any(not on_gpu(x) and (x.dim() or strict) for x in leaves) and any(map(on_gpu, leaves)):
            raise RuntimeError(
                f"{name}: Expected all tensors to be on the same device, but found at least two "
                f"devices, cuda:0 and cpu! At {_line()}"
            )

    def _count(self, name: str, args: Any, kwargs: Any, inside: bool, target: bool | None) -> None:
        if inside and (name in READS or target is False):
            self._wait(name)
        elif name == "where" and len(args) == 1:
            self._wait("where")
        elif name in ("__getitem__", "__setitem__"):
            self._count_index(args[1])
        elif target and not inside and name in ("to", "cuda", "tensor", "as_tensor", "from_numpy"):
            pinned = bool(kwargs.get("non_blocking"))
            if not pinned:
                self._wait(f"{name} (upload)")

    def _count_index(self, index: Any) -> None:
        parts = index if isinstance(index, tuple) else (index,)
        for part in parts:
            if isinstance(part, list):
                self._wait("index by a list")
            elif isinstance(part, Tensor) and part.dtype in (torch.bool, torch.uint8):
                self._wait("index by bools")
            elif isinstance(part, Tensor) and part.dim() and not on_gpu(part):
                self._wait("index of the CPU")

    def _wait(self, name: str) -> None:
        self.waits[f"{_line()} {name}"] += 1


def on_gpu(tensor: Any) -> bool:
    """Whether a tensor says that it is on the GPU."""
    return getattr(tensor, "_pretends", False)


def _marking(function: Any) -> Any:
    """The same function; its result is where its first argument is."""

    def marked(tensor: Tensor, *args: Any) -> Tensor:
        return _mark(function(tensor, *args), on_gpu(tensor))

    return marked


def _mark(tensor: Tensor, there: bool) -> Tensor:
    tensor._pretends = there  # type: ignore[attr-defined]
    return tensor


def _placed(made: Tensor, there: bool, given: list[Tensor]) -> Tensor:
    """A result on its side; a tensor that was given stays where it was."""
    if on_gpu(made) != there and any(made is x for x in given):
        made = made.clone()
    return _mark(made, there)


def _target(name: str, args: Any, kwargs: Any) -> tuple[Any, Any, bool | None]:
    """The arguments without their device, and whether it is the GPU; None: none is named."""
    target: bool | None = None
    if name in ("cuda", "cpu"):
        target = name == "cuda"
    if kwargs.get("device") is not None:
        target = torch.device(kwargs["device"]).type == "cuda"
        kwargs["device"] = "cpu" if target else kwargs["device"]
    if name in ("to", "type_as") and len(args) > 1:
        first = args[1]
        if isinstance(first, Tensor):
            target = on_gpu(first)
        elif isinstance(first, str | torch.device):
            target = torch.device(first).type == "cuda"
            args = (args[0], "cpu" if target else first, *args[2:])
    return args, kwargs, target


def _line() -> str:
    """The innermost line of the package that is running."""
    for frame in _frames():
        file = frame.f_code.co_filename
        if "/inlay/" in file:
            return f"{file.rpartition('/inlay/')[2]}:{frame.f_lineno}"
    return "outside"


def _frames() -> Iterator[Any]:
    frame: Any = sys._getframe(1)
    while frame is not None:
        yield frame
        frame = frame.f_back
