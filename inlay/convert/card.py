"""The README that goes with an export."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from inlay.core.secrets import redact


def model_card(title: str, kind: str, base: str | None, facts: Mapping[str, Any]) -> str:
    """Return the text of a model card.

    Args:
        title: heading.
        kind: ``"model"``, ``"adapter"``, with eyes ``"vlm"`` or ``"vlm adapter"``, ``"visual
            encoder"``, or ``"parts"`` and ``"grounding"`` for what Inlay alone loads.
        base: hub name or path of the model it was trained from.
        facts: what to tell of the training, name to value, in order. A list of dicts is a section
            of its own: a table with a row for each. Secrets are cut out.
    """
    is_adapter = kind.endswith("adapter")
    ours = kind in ("parts", "grounding")
    library = "inlay" if ours else "peft" if is_adapter else "transformers"
    head = ["---", f"library_name: {library}", f"pipeline_tag: {_TASK[kind]}"]
    if base and is_hub_name(base):
        head.append(f"base_model: {json.dumps(base)}")
    head += ["tags:", "- inlay", *(["- lora"] if is_adapter else []), "---"]
    plain = {name: value for name, value in facts.items() if not isinstance(value, list)}
    rows = {"Base model": base, **plain} if base else plain
    table = ["| | |", "|---|---|", *(f"| {_cell(k)} | {_cell(v)} |" for k, v in rows.items())]
    body = [f"# {title}", "", "Fine-tuned with Inlay.", "", *table, ""]
    for name, value in facts.items():
        if isinstance(value, list) and value:
            body += [f"## {name}", "", *_table(value), ""]
    body += ["## Use", "", _LOAD[kind].replace("BASE", base or "path/to/base")]
    return redact("\n".join([*head, "", *body]) + "\n")


def _table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    columns = list(rows[0])
    lines = [columns, ["---"] * len(columns), *([row[c] for c in columns] for row in rows)]
    return [f"| {' | '.join(map(_cell, line))} |" for line in lines]


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

_LOAD_VLM = """```python
from transformers import AutoModelForImageTextToText, AutoProcessor

model = AutoModelForImageTextToText.from_pretrained("path/to/this/folder", dtype="auto")
processor = AutoProcessor.from_pretrained("path/to/this/folder")
```"""

_LOAD_VLM_ADAPTER = """```python
from peft import PeftModel
from transformers import AutoModelForImageTextToText, AutoTokenizer

model = AutoModelForImageTextToText.from_pretrained("BASE", dtype="auto")
model = PeftModel.from_pretrained(model, "path/to/this/folder")
tokenizer = AutoTokenizer.from_pretrained("path/to/this/folder")
```"""

_LOAD_PARTS = """```shell
inlay chat path/to/this/folder --image picture.jpg
```"""

_LOAD_GROUNDING = """```shell
inlay ground picture.jpg "the red cup" --checkpoint path/to/this/folder --model BASE
inlay chat BASE --ground path/to/this/folder --image picture.jpg
```"""

_LOAD_ENCODER = """```python
from transformers import AutoImageProcessor, AutoModel

model = AutoModel.from_pretrained("path/to/this/folder", dtype="auto")
processor = AutoImageProcessor.from_pretrained("path/to/this/folder")
```"""

_TASK = {
    "model": "text-generation",
    "adapter": "text-generation",
    "vlm": "image-text-to-text",
    "vlm adapter": "image-text-to-text",
    "visual encoder": "image-feature-extraction",
    "parts": "image-text-to-text",
    "grounding": "image-segmentation",
}

_LOAD = {
    "model": _LOAD_MODEL,
    "adapter": _LOAD_ADAPTER,
    "vlm": _LOAD_VLM,
    "vlm adapter": _LOAD_VLM_ADAPTER,
    "visual encoder": _LOAD_ENCODER,
    "parts": _LOAD_PARTS,
    "grounding": _LOAD_GROUNDING,
}
