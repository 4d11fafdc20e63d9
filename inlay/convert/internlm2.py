"""InternLM2 goes out under its own names, with its published files, or as a Llama."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

PUBLISHED = ("*.py", "tokenizer.model")
"""What its folders hold that is not written from memory: code for others to run, never run here."""


def is_internlm2(llm: Any) -> bool:
    return llm.config.model_type == "internlm2"


def in_layout(llm: Any, layout: str) -> Any:
    """Return ``llm`` as it is, or with ``layout="llama"`` an InternLM2 as a ``LlamaForCausalLM``.

    Raises:
        ModelError: Llama's layout of another model, or of one with an adapter or quantised weights.
    """
    from inlay.models.internlm2 import to_llama

    return to_llama(llm) if layout == "llama" else llm


def copy_published_files(base: str, folder: Path) -> None:
    """Copy code and SentencePiece file from the folder (or download) of the base model.

    Nothing is copied where ``base`` is gone or has none: ``tokenizer.json`` is written anyway, and
    Inlay needs no code.
    """
    from transformers.utils import cached_file

    try:
        config = cached_file(base, "config.json")
    except OSError:
        return
    if config is None:
        return
    for pattern in PUBLISHED:
        for file in sorted(Path(config).parent.glob(pattern)):
            shutil.copyfile(file, folder / file.name)
