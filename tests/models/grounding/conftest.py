"""Lets the tests of this folder import its modules; the tiny models that several of them share."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from tiny_grounding import Setup, deepseek, llava_next


@pytest.fixture(scope="module")
def tiny() -> Setup:
    return deepseek()


@pytest.fixture(scope="module", params=["deepseek_vl", "llava_next"])
def setup(request: Any, tiny: Setup, tmp_path_factory: pytest.TempPathFactory) -> Setup:
    if request.param == "deepseek_vl":
        return tiny
    return llava_next(tmp_path_factory.mktemp("llava_next"))
