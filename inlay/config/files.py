"""Local files that a config names, looked for before anything is loaded."""

from __future__ import annotations

import glob
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from inlay.config.load import Config
from inlay.config.problems import Problem

_KEYS = frozenset(
    ("path", "data_path", "data_files", "data_dir", "load_from", "pretrained_model_name_or_path")
) | frozenset(("checkpoint", "instances", "refs", "json_file", "panoptic_json_file"))
_ALWAYS_LOCAL = frozenset(("image_folder", "pretrained_pth"))
_LOCAL = re.compile(r"^(/|\./|\.\./|~|[A-Za-z]:\\)|\.(jsonl?|parquet|csv|txt|pth|arrow|gz|zst)$")


def missing_files(cfg: Config, severity: Literal["warn", "error"]) -> Iterator[Problem]:
    """Yield the local files and folders that the config names and that are not there.

    A hub name (``org/name``) and a URL are not local. Each file is named once.
    """
    seen: set[str] = set()
    for path, text in _named_files(dict(cfg), ""):
        is_local = path.rpartition(".")[2] in _ALWAYS_LOCAL or _LOCAL.search(text)
        if text in seen or "://" in text or not text or not is_local:
            continue
        seen.add(text)
        found = Path(text).expanduser()
        is_checkpoint = path.endswith(("load_from", "pretrained_pth")) and found.suffix == ".pth"
        if is_checkpoint and found.with_suffix("").is_dir():
            continue  # a folder of ours, by the name that it had in the original
        if not found.exists() and not glob.glob(str(found), recursive=True):
            yield Problem(
                path,
                "a file or folder that exists",
                repr(text),
                f"Paths are relative to {Path.cwd()}.",
                "error" if severity == "error" else "warning",
            )


def _named_files(value: Any, path: str, key: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, str) and key in _KEYS | _ALWAYS_LOCAL:
        yield path, value
    elif isinstance(value, dict):
        for name, item in value.items():
            if name == "image_folder" and (value.get("ceph_path") or value.get("path_mapping")):
                continue  # its pictures may lie elsewhere
            inner = key if key == "data_files" else str(name)
            yield from _named_files(item, f"{path}.{name}" if path else str(name), inner)
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from _named_files(item, f"{path}.{index}", key)
