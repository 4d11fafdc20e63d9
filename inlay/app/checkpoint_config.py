"""The config that a training checkpoint carries: how its model was built."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from inlay.app.names import register_names
from inlay.config.check import check_config, format_problems
from inlay.config.load import load_config
from inlay.core.errors import CheckpointError, ConfigError
from inlay.engine import checkpoint as ckpt

CONFIG = "config.py"
"""In the folder of a checkpoint: its resolved config."""
_MARKS = ("state.json", ckpt.MANIFEST, ckpt.POINTER)


def training_checkpoint(path: str | Path) -> Path | None:
    """Return the folder of the checkpoint that ``path`` means: itself, or the last one of a work
    dir; None where it means anything else (an export, a hub name, a file of others).

    Raises:
        CheckpointError: a work dir whose last checkpoint is gone.
    """
    folder = Path(path).expanduser()
    if not any((folder / name).is_file() for name in _MARKS):
        return None
    found = ckpt.locate(folder)
    if not found.is_dir():
        raise CheckpointError(f"{folder} names {found.name} as its last checkpoint, which is gone")
    return found


def config_of(folder: Path) -> Path:
    """Return the config of a checkpoint.

    Raises:
        CheckpointError: it has none.
    """
    if not (folder / CONFIG).is_file():
        raise CheckpointError(f"{folder} has no {CONFIG}: name its config with --config")
    return folder / CONFIG


def config_for_inference(source: str | Path) -> Any:
    """Load a config whose data need not be there any more. A config is code: it is executed.

    Raises:
        ConfigError: it cannot be read, or does not fit this Inlay.
    """
    register_names()
    cfg = load_config(source)
    errors = [p for p in check_config(cfg) if p.severity == "error"]
    if errors:
        raise ConfigError(format_problems(errors))
    return cfg
