"""Folders that cannot be written, names of all kinds: refused before the model loads, or fine."""

from __future__ import annotations

import ctypes
import json
import os
import resource
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from runs import inlay, look_here, start, train, trained, write_config, write_rows
from test_workdir import no_model, refused

from inlay.engine import checkpoint as ckpt

CAPABILITIES = 0x20080522
"""Version 3 of Linux's capget and capset."""
OVERRULE = (1, 2)
"""CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH: with them permission bits are nothing to root."""


def obey_permissions() -> None:
    """For ``before``: give up root's right to overrule permission bits; others have none."""
    libc = ctypes.CDLL(None, use_errno=True)
    header, sets = (ctypes.c_uint32 * 2)(CAPABILITIES, 0), (ctypes.c_uint32 * 6)()
    assert libc.capget(header, sets) == 0
    for bit in OVERRULE:
        sets[0] &= ~(1 << bit)  # effective
        sets[1] &= ~(1 << bit)  # permitted
    assert libc.capset(header, sets) == 0


def no_model_as_a_user() -> None:
    obey_permissions()
    no_model()


# -- the work dir --------------------------------------------------------------------------------


def read_only(folder: Path) -> Path:
    folder.mkdir()
    folder.chmod(0o555)
    return folder


def used_before(folder: Path) -> Path:
    """A folder of an earlier run, whose lock may be written, and nothing else."""
    folder.mkdir()
    (folder / ".lock").write_text("1")
    folder.chmod(0o555)
    return folder


WORK_DIRS: dict[str, tuple[str, Callable[[Path], Path]]] = {
    "read-only folder": ("Permission denied", read_only),
    "in a read-only folder": ("Permission denied", lambda f: read_only(f) / "w"),
    "read-only folder of an earlier run": ("Permission denied", used_before),
    "no file system for files": ("No such file or directory", lambda f: Path("/proc/inlay/w")),
    "name too long": ("File name too long", lambda f: f / ("w" * 300)),
    "dangling link": ("File exists", lambda f: (f.symlink_to(f / "gone"), f)[1]),
}


@pytest.mark.parametrize("case", WORK_DIRS)
def test_a_work_dir_that_cannot_be_written_is_refused_before_the_model_loads(
    tmp_path: Path, tiny_model: Path, case: str
) -> None:
    reason, make = WORK_DIRS[case]
    work = make(tmp_path / "w")
    text = refused(write_config(tmp_path, tiny_model), work, before=no_model_as_a_user)
    assert text.strip() == (
        f"error: work dir {work} cannot be written ({reason}). Choose another one with --work-dir"
    )


def no_room() -> None:
    """For ``before``: the system takes files of 32 KB, and none that are larger."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**15, 2**15))
    no_model()


def test_a_disk_without_room_is_found_before_the_model_loads(
    tmp_path: Path, tiny_model: Path
) -> None:
    text = refused(write_config(tmp_path, tiny_model), tmp_path / "w", before=no_room)
    assert f"work dir {tmp_path / 'w'} cannot be written (File too large)" in text
    assert not any(p.name != ".lock" for p in (tmp_path / "w").iterdir()), "nothing is left behind"


def test_a_name_that_is_not_utf_8_is_refused_before_the_model_loads(
    tmp_path: Path, tiny_model: Path
) -> None:
    work = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9"))
    text = refused(write_config(tmp_path, tiny_model), work)
    assert "the name is not UTF-8" in text and "caf\\xe9" in text
    assert not work.exists()


# -- everything else -----------------------------------------------------------------------------


def test_a_user_without_a_home_trains_and_is_told_what_is_lost(
    tmp_path: Path, tiny_model: Path
) -> None:
    """As in a container that runs under a number: no cache can be written."""
    config = write_config(tmp_path, tiny_model, max_epochs=1, evaluation_inputs=["row 1?"])
    home = read_only(tmp_path / "home")
    environment = {"HOME": str(home), "INLAY_CACHE": "", "HF_HOME": str(home / "hf")}
    words: list[str | Path] = ["train", config, "--work-dir", tmp_path / "w"]
    child = start(words, tmp_path, environment, obey_permissions)
    assert child.wait() == 0, child.text
    assert f"the data cache {home}/.cache/inlay/data cannot be written" in child.text
    assert not any(home.iterdir()) and len(trained(tmp_path / "w")) == 9


def test_paths_with_blanks_and_in_any_script_work_to_the_end(
    tmp_path: Path, tiny_model: Path
) -> None:
    folder = tmp_path / "größer als 数据 und 'so' ✓"
    data, model = write_rows(folder / "行 1.json"), folder / "модель 1"
    shutil.copytree(tiny_model, model)
    config = write_config(folder, model, data, "mein lauf é", dropout=0.0, max_epochs=1)
    work, cache = folder / "arbeit é", folder / "кэш 1"
    train(config, work, before=partial(os.environ.__setitem__, "INLAY_CACHE", str(cache)))
    assert ckpt.newest_valid(work)[0] == work / "iter_9" and any((cache / "data").iterdir())
    steps: list[list[str | Path]] = [
        ["inspect", work],
        ["test", config, "--checkpoint", work, "--cfg-options", "val_fraction=0.3"],
        ["convert", "pth_to_hf", work / "mein lauf é.py", work / "iter_9", folder / "адаптер ü"],
        ["convert", "merge", model, folder / "адаптер ü", folder / "ganz é"],
    ]
    for words in steps:
        code, text = inlay(words, tmp_path, look_here if words[0] == "convert" else None)
        assert code == 0, text
    merged = json.loads((folder / "ganz é" / "config.json").read_text())
    assert merged["model_type"] == "llama"
