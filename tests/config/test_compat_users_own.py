"""Code of the user's own beside a config of the originals: hooks, registries, map functions."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from original_configs import SFT, errors

from inlay.app.names import register_names
from inlay.config.foreign import stop_serving
from inlay.config.load import load_config
from inlay.config.registry import resolve
from inlay.core.errors import ConfigError

HOOK = """
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from xtuner.registry import BUILDER, MAP_FUNC


@HOOKS.register_module()
class {name}(Hook):
    def __init__(self, interval=100, part=None):
        self.interval, self.part = interval, BUILDER.build(part)

    def before_run(self, runner):
        super().before_run(runner)


@MAP_FUNC.register_module("{name}_rows")
def rows(example):
    return {{"conversation": [{{"input": example["q"], "output": example["a"]}}]}}
"""


@pytest.fixture(autouse=True)
def clean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    register_names()
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    known = set(sys.modules)
    yield
    for name in set(sys.modules) - known:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]
    stop_serving()


def module(tmp_path: Path, name: str) -> None:
    (tmp_path / f"{name}_hooks.py").write_text(HOOK.format(name=name), encoding="utf-8")


def test_a_hook_in_the_config_file_itself(write: Any) -> None:
    text = SFT + HOOK.format(name="InFile") + "custom_hooks = [dict(type='InFile', interval=3)]\n"
    cfg = load_config(write(text=text))
    assert errors(cfg) == [] and cfg.custom_hooks == [dict(type="InFile", interval=3)]
    hook = resolve("InFile")(interval=3, part=7)
    assert (hook.interval, hook.part) == (3, 7)
    hook.before_run(None)
    load_config(write(text=text))  # executed again, it is registered again


def test_a_registered_module_by_custom_imports(write: Any, tmp_path: Path) -> None:
    module(tmp_path, "Imported")
    text = SFT.replace("dataset_map_fn=alpaca_map_fn", "dataset_map_fn='Imported_rows'")
    text += "custom_imports = dict(imports=['Imported_hooks'], allow_failed_imports=False)\n"
    text += "custom_hooks = [dict(type='Imported')]\n"
    cfg = load_config(write(text=text))
    assert errors(cfg) == []
    row = {"q": "why?", "a": "so"}
    (turn,) = cfg.train_dataset["sources"][0]["format"](row)["conversation"]
    assert turn == {"input": "why?", "output": "so"}
    with pytest.raises(ConfigError, match=r"custom_imports: .*'nothing_here' is not installed"):
        load_config(write(text=text.replace("Imported_hooks", "nothing_here")))


def test_a_module_that_is_imported_when_a_node_is_looked_up(write: Any, tmp_path: Path) -> None:
    module(tmp_path, "Late")
    text = SFT + "custom_hooks = [dict(type='Late_hooks.Late'), dict(type='nowhere.Late')]\n"
    (error,) = errors(load_config(write(text=text)))
    assert "custom_hooks.1.type" in error and "nowhere" in error


def test_a_name_that_is_taken(write: Any) -> None:
    text = SFT + HOOK.format(name="LoggerHook")
    with pytest.raises(ConfigError, match="'LoggerHook' is already registered"):
        load_config(write(text=text))


def test_map_functions_beside_the_config_by_read_base(write: Any, tmp_path: Path) -> None:
    (tmp_path / "map_fn.py").write_text(
        "def custom_map_fn(example):\n"
        "    return {'conversation': [{'input': example['q'], 'output': 'a'}]}\n"
    )
    base = (
        "from mmengine.config import read_base\n"
        "with read_base():\n    from .map_fn import custom_map_fn\n"
    )
    text = base + SFT.replace("dataset_map_fn=alpaca_map_fn", "dataset_map_fn=custom_map_fn")
    cfg = load_config(write(text=text))
    assert errors(cfg) == []
    assert cfg.train_dataset["sources"][0]["format"].__name__ == "custom_map_fn"
