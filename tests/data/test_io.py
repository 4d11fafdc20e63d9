from __future__ import annotations

import os

import pytest

from inlay.core import io


def test_replaces_whole_files(tmp_path):
    path = tmp_path / "new" / "a.json"
    io.write_json(path, {"é": 1})
    io.write_json(path, {"é": 2})
    assert io.read_json(path) == {"é": 2}
    assert os.listdir(path.parent) == ["a.json"]


def test_failure_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    io.write_text(path, "old")

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        io.write_text(path, "new")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]
