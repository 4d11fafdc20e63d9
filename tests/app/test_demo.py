"""The demo's folder: a config like any other, checked, and never written over."""

from __future__ import annotations

from pathlib import Path

import pytest

from inlay.app.demo.run import next_steps, unpack
from inlay.app.dry_run import dry_run
from inlay.config.load import load_config
from inlay.core.errors import InlayError


def test_the_unpacked_config_trains_on_the_unpacked_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INLAY_CACHE", str(tmp_path / "cache"))
    config = unpack(tmp_path / "demo")
    assert load_config(str(config)).data_path == str(tmp_path / "demo" / "conversations.json")
    assert "PART 5" in config.read_text(encoding="utf-8")
    result = dry_run(str(config), [])
    assert result["trainable"] == 260_032 and result["loss"] < 3
    with pytest.raises(InlayError, match="exists"):
        unpack(tmp_path / "demo")


def test_the_commands_to_go_on_with_convert_before_they_train_over() -> None:
    text = next_steps(Path("d/demo.py"), Path("d"), Path("d/run/iter_9"))
    # Training on may delete the checkpoint that the line before converts.
    assert text.index("convert pth_to_hf d/demo.py d/run/iter_9") < text.index("--resume")
