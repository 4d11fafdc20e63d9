"""Our writer of safetensors files: the library reads every dtype, shape and bit back."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from inlay.engine.tensor_file import DTYPES, write_tensors


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_library_reads_back_every_bit(dtype: torch.dtype, tmp_path: Path) -> None:
    raw = torch.randint(0, 2, (6, 5, 8), dtype=torch.uint8)
    wide = raw if dtype is torch.bool else torch.randint(0, 255, (6, 5, 8), dtype=torch.uint8)
    whole = wide.view(dtype)
    tensors = {
        "whole": whole,
        "transposed": whole.transpose(0, 1),
        "scalar": whole[0, 0, 0],
        "empty": whole[:0],
        "odd": torch.tensor([1, 2, 3], dtype=torch.uint8),
    }
    path = tmp_path / "x.safetensors"
    digest = write_tensors(path, tensors).result()
    assert digest == hashlib.sha256(path.read_bytes()).hexdigest()
    found = load_file(path)
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert found[name].dtype == tensor.dtype and found[name].shape == tensor.shape
        as_bytes = [x.contiguous().reshape(-1).view(torch.uint8) for x in (found[name], tensor)]
        assert torch.equal(*as_bytes), name


def test_a_full_disk_is_the_systems_own_error() -> None:
    with pytest.raises(OSError, match="No space left"):
        write_tensors(Path("/dev/full"), {"w": torch.zeros(100_000)})
