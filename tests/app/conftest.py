"""Lets the tests of this folder import ``runs``, and imports all that a forked run needs."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="session", autouse=True)
def warm(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Import once, in the parent, what every child would import; keep caches in one place."""
    os.environ["INLAY_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    import peft  # noqa: F401
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM  # noqa: F401

    import inlay.app.train
    import inlay.data.sft
    import inlay.models.sft  # noqa: F401

    torch.set_num_threads(1)
