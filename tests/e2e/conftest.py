"""Lets the tests of this folder import the helpers of ``tests/models`` and ``tests/app``."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

for floor in ("models", "app"):
    sys.path.insert(0, str(Path(__file__).parents[1] / floor))


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """A forked child cannot use the thread pool of a parent that computed on several threads."""
    import torch

    torch.set_num_threads(1)
