"""The README that goes with an export."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def model_card(title: str, kind: str, base: str | None, facts: Mapping[str, Any]) -> str:
    """Return the text of a model card.

    Args:
        title: heading.
        kind: ``"model"`` or ``"adapter"``.
        base: hub name or path of the model it was trained from.
        facts: what to tell of the training, name to value, in order.
    """
    head = ["---", f"library_name: {'peft' if kind == 'adapter' else 'transformers'}"]
    head.append("pipeline_tag: text-generation")
    if base and is_hub_name(base):
        head.append(f"base_model: {json.dumps(base)}")
    head += ["tags:", "- inlay", *(["- lora"] if kind == "adapter" else []), "---"]
    rows = {"Base model": base, **facts} if base else facts
    table = ["| | |", "|---|---|", *(f"| {_cell(k)} | {_cell(v)} |" for k, v in rows.items())]
    load = _LOAD_ADAPTER if kind == "adapter" else _LOAD_MODEL
    body = [f"# {title}", "", "Fine-tuned with Inlay.", "", *table, "", load]
    return "\n".join([*head, "", *body]) + "\n"


def is_hub_name(base: str) -> bool:
    """Whether ``base`` reads as ``owner/name`` and is not a folder at hand."""
    return base.count("/") == 1 and not base.startswith((".", "/", "~")) and not Path(base).exists()


def _cell(value: Any) -> str:
    return str(value).replace("|", "\\|").replace("\n", " ")


_LOAD_MODEL = """```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("path/to/this/folder", dtype="auto")
tokenizer = AutoTokenizer.from_pretrained("path/to/this/folder")
```"""

_LOAD_ADAPTER = """```python
from peft import AutoPeftModelForCausalLM
from transformers import AutoTokenizer

model = AutoPeftModelForCausalLM.from_pretrained("path/to/this/folder", dtype="auto")
tokenizer = AutoTokenizer.from_pretrained("path/to/this/folder")
```"""
