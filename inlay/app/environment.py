"""What a run ran on: versions, machine, devices, settings of the libraries."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from inlay import __version__
from inlay.core import dist
from inlay.core.secrets import redact_tree

PACKAGES = (
    "torch", "transformers", "peft", "accelerate", "datasets", "safetensors", "tokenizers",
    "numpy", "pillow", "bitsandbytes", "deepspeed",
)  # fmt: skip
PREFIXES = ("CUDA_", "HF_", "INLAY_", "NCCL_", "OMP_", "PYTORCH_", "SLURM_JOB", "TORCH_", "WANDB_")
"""Environment variables that change what a run does; secrets among them are cut out."""


def environment() -> dict[str, Any]:
    """Return JSON values: ``inlay``, ``python``, ``platform``, ``packages`` (versions), ``cpus``,
    ``devices`` (names of this machine's GPUs), ``world_size``, ``variables``."""
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return {
        "inlay": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: found for name in PACKAGES if (found := _version(name))},
        "cpus": os.cpu_count(),
        "devices": [torch.cuda.get_device_name(number) for number in range(count)],
        "world_size": dist.world_size(),
        "variables": redact_tree(
            {k: v for k, v in sorted(os.environ.items()) if k.startswith(PREFIXES)}
        ),
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
