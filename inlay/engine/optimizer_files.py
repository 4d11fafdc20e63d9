"""The optimizer's state in a checkpoint: whole tensors, or flat pieces that several ranks wrote.

``optimizer.safetensors`` holds ``"<parameter>|<key>"``, whole. A strategy that cuts the state up
writes ``optimizer_R.safetensors`` from every rank R, with ``"<parameter>|<key>@<start>"``: the
elements ``[start, start + numel)`` of the flattened (row-major) tensor. Read through
:class:`SavedState`, one is as good as the other, whatever wrote it, whatever number of ranks reads.
"""

from __future__ import annotations

import math
from typing import Any

import torch

from inlay.core.errors import CheckpointError

STEM = "optimizer"


def file_stem(rank: int | None) -> str:
    """File stem of the state that ``rank`` writes; None: of the state that is whole."""
    return STEM if rank is None else f"{STEM}_{rank}"


class SavedState:
    """State of an optimizer by ``"<parameter>|<key>"``, from any files.

    Args:
        files: what each file holds, in any order.
        meta: ``scalars`` (JSON values by full name), ``on_host`` (full names of tensors that stay
            on the CPU) and, of what is in pieces, ``shapes`` by full name.
    """

    def __init__(self, files: list[dict[str, torch.Tensor]], meta: dict[str, Any]) -> None:
        self.scalars: dict[str, Any] = meta["scalars"]
        self.on_host = frozenset(meta["on_host"])
        self._shapes = {k: torch.Size(v) for k, v in meta.get("shapes", {}).items()}
        self._pieces: dict[str, list[tuple[int, torch.Tensor]]] = {}
        for file in files:
            for name, tensor in file.items():
                full, _, start = name.rpartition("@")
                if full in self._shapes:
                    self._pieces.setdefault(full, []).append((int(start), tensor))
                else:
                    self._shapes[name] = tensor.shape
                    self._pieces[name] = [(0, tensor.reshape(-1))]
        for pieces in self._pieces.values():
            pieces.sort(key=lambda piece: piece[0])

    @classmethod
    def of(cls, tensors: dict[str, dict[str, torch.Tensor]], meta: dict[str, Any]) -> SavedState:
        """Return the state among all ``tensors`` of a checkpoint, by file stem."""
        return cls([t for s, t in tensors.items() if s == STEM or s.startswith(f"{STEM}_")], meta)

    def names(self) -> list[str]:
        """Full names of all tensors and scalars."""
        return [*self._pieces, *self.scalars]

    def shape(self, full: str) -> torch.Size:
        """Whole shape of a tensor; of a scalar, that of a number."""
        return self._shapes.get(full, torch.Size())

    def read(self, full: str, start: int, stop: int) -> torch.Tensor:
        """Return the elements ``[start, stop)`` of the flattened tensor ``full``, 1-D, on the CPU.

        Raises:
            CheckpointError: no file holds some of them.
        """
        found, at = [], start
        for begin, piece in self._pieces[full]:
            end = begin + piece.numel()
            if begin <= at < min(end, stop):
                found.append(piece[at - begin : min(end, stop) - begin])
                at = min(end, stop)
        if at < stop:
            raise CheckpointError(
                f"the checkpoint's optimizer state '{full}' lacks the elements {at} to {stop - 1}: "
                "a file of another rank is missing from it"
            )
        return torch.cat(found) if found else self._pieces[full][0][1][:0]

    def whole(self, full: str) -> Any:
        """Return a tensor in its shape, or a scalar's value."""
        if full in self.scalars:
            return self.scalars[full]
        shape = self._shapes[full]
        pieces = self._pieces[full]
        if len(pieces) == 1 and pieces[0][1].numel() == math.prod(shape):
            return pieces[0][1].reshape(shape)  # without a copy
        return self.read(full, 0, math.prod(shape)).reshape(shape)
