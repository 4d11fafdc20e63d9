"""A complete small config as a file, whose targets stand in ``toy_parts``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

TOY = """\
from toy_parts import TEMPLATE, Adam, Adapter, Chat, Hook, Loop, Net, Optim, Ramp, Rows, Words

# PART 1  Settings
width = 4  # channels
template = TEMPLATE
max_epochs = 3
optim_type = Adam
lr = 1e-3
warmup_ratio = 0.1
batch_size = 2

# PART 2
tokenizer = dict(type=Words.load, path="words")
model = dict(type=Net, width=width, adapter=dict(type=Adapter, r=4))

# PART 3
train_dataset = dict(
    type=Rows,
    words=tokenizer,
    sources=[dict(path="org/rows")],
    max_length=8,
    template=template,
)
train_dataloader = dict(batch_size=batch_size, dataset=train_dataset)

# PART 4
optim_wrapper = dict(type=Optim, optimizer=dict(type=optim_type, lr=lr))
param_scheduler = [
    dict(type=Ramp, end=warmup_ratio * max_epochs),
    dict(type=Ramp, start_factor=1.0, begin=warmup_ratio * max_epochs, end=max_epochs),
]
train_cfg = dict(type=Loop, max_epochs=max_epochs)

# PART 5
custom_hooks = [
    dict(type=Hook, every=10),
    dict(type=Chat, evaluation_inputs=["hi"], prompt_template=template),
]
"""


@pytest.fixture(autouse=True)
def toy_parts_importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Writes a config file: the toy config with replacements, or any text."""

    def make(*changes: tuple[str, str], text: str = TOY, name: str = "toy.py") -> Path:
        for old, new in changes:
            assert old in text, f"'{old}' is not in the config"
            text = text.replace(old, new)
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return path

    return make
