"""Checkpoints on disk: a folder that is either whole and verified, or not there.

``iter_N/`` holds ``model.safetensors`` (trained weights), ``optimizer.safetensors`` or the pieces
of all ranks (see ``optimizer_files``), ``rng_R.safetensors`` for every rank R, ``state.json``
(counters, data position, identity), ``config.py`` (resolved), what hooks added, and
``manifest.json`` with size and SHA-256 of the rest. It is written under a temporary name, synced,
then renamed; ``last_checkpoint`` (a relative name) comes last. Nothing is pickled.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from inlay.core.errors import CheckpointError, did_you_mean
from inlay.core.io import file_sha256, write_text
from inlay.engine.tensor_file import write_tensors

FORMAT = 1
MANIFEST = "manifest.json"
POINTER = "last_checkpoint"
NAME = re.compile(r"^(iter|epoch)_(\d+)$")


@dataclass
class Checkpoint:
    """A checkpoint in memory.

    Attributes:
        tensors: file stem -> tensors by name (``model``, ``optimizer``, ``rng_0``, ...).
        state: JSON values: counters, position, identity, optimizer settings, hook values.
        config: text of the resolved config file.
    """

    tensors: dict[str, dict[str, torch.Tensor]] = field(default_factory=dict)
    state: dict[str, Any] = field(default_factory=dict)
    config: str = ""


def alone(value: Any) -> list[Any]:
    """Gather ``value`` of every rank, where there is but one."""
    return [value]


def write(
    path: Path,
    checkpoint: Checkpoint,
    rank: int = 0,
    gather: Callable[[Any], list[Any]] = alone,
) -> None:
    """Write ``checkpoint`` to the folder ``path``: all of it, or nothing. Every rank calls it.

    Each rank brings the tensors that it writes; state and config are those of rank 0.

    Args:
        gather: returns its argument on every rank, in rank order.

    Raises:
        CheckpointError: on every rank, where one could not write: a disk is full, not writable, or
            not shared. What was there before is untouched.
    """
    temporary = Path(gather(str(path.parent / f".{path.name}.tmp-{os.getpid()}"))[0])

    def together(step: Callable[[], Any]) -> list[Any]:
        """Take a step on every rank; return what each has got."""
        done = gather(_tried(step))
        errors = [error for _, error in done if error is not None]
        if errors:
            raise CheckpointError(
                f"could not write checkpoint {path}: {errors[0]}. Earlier checkpoints "
                "are untouched; free some space or fix the permissions, then resume."
            )
        return [value for value, _ in done]

    try:
        together(lambda: _make_empty(temporary) if rank == 0 else None)
        files = together(lambda: _write_files(temporary, checkpoint, with_state=rank == 0))
        merged = {name: entry for part in files for name, entry in part.items()}
        together(lambda: _commit(temporary, path, merged) if rank == 0 else None)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _tried(step: Callable[[], Any]) -> tuple[Any, str | None]:
    """Return what ``step`` returns, or what the disk had against it."""
    try:
        return step(), None
    except OSError as error:
        return None, error.strerror or str(error)


def _make_empty(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)


def _write_files(folder: Path, checkpoint: Checkpoint, with_state: bool) -> dict[str, Any]:
    """Write one rank's files; hash and sync in threads meanwhile, so the largest go first.

    Returns:
        Size and SHA-256 of each, by name.
    """
    texts = {}
    if with_state:
        state = json.dumps({"format": FORMAT, **checkpoint.state}, indent=1)
        texts = {"state.json": state, "config.py": checkpoint.config}
    hashes: dict[str, Future[str]] = {}
    with ThreadPoolExecutor(2) as pool:
        syncs = []
        for stem, tensors in sorted(checkpoint.tensors.items(), key=lambda f: -_size(f[1])):
            name = f"{stem}.safetensors"
            hashes[name] = write_tensors(folder / name, tensors)
            syncs.append(pool.submit(_sync, folder / name))
        for name, text in texts.items():
            (folder / name).write_text(text, encoding="utf-8")
            hashes[name] = pool.submit(file_sha256, folder / name)
            syncs.append(pool.submit(_sync, folder / name))
        for sync in syncs:
            sync.result()
        return {
            name: {"size": (folder / name).stat().st_size, "sha256": digest.result()}
            for name, digest in hashes.items()
        }


def _commit(temporary: Path, path: Path, files: dict[str, Any]) -> None:
    """Seal the folder with its manifest and give it its name."""
    manifest = temporary / MANIFEST
    manifest.write_text(json.dumps({"format": FORMAT, "files": files}, indent=1), encoding="utf-8")
    _sync(manifest)
    _sync(temporary)
    _swap(temporary, path)


def _size(tensors: dict[str, torch.Tensor]) -> int:
    """Bytes of all tensors."""
    return sum(t.numel() * t.element_size() for t in tensors.values())


def _swap(temporary: Path, path: Path) -> None:
    """Give the finished folder its name. One that is in the way steps aside until then."""
    aside = path.parent / f".{path.name}.old"
    if path.exists():
        shutil.rmtree(aside, ignore_errors=True)
        path.rename(aside)
    temporary.rename(path)
    _sync(path.parent)
    shutil.rmtree(aside, ignore_errors=True)


def copy(source: Path, target: Path) -> None:
    """Give the checkpoint folder ``source`` a second name. The two share their files, which are
    never changed, where the disk can do that.

    Raises:
        OSError: the disk is full or not writable; what was at ``target`` is untouched.
    """
    temporary = target.parent / f".{target.name}.tmp-{os.getpid()}"
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        shutil.copytree(source, temporary, copy_function=_link)
        _swap(temporary, target)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def point_to(work_dir: Path, name: str) -> None:
    """Make ``last_checkpoint`` name ``name``, relative, so that folders can move."""
    write_text(work_dir / POINTER, name)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def damage(path: Path) -> str | None:
    """Return what is wrong with the checkpoint folder ``path``, or None when it is whole."""
    try:
        manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        files = manifest["files"]
        for name, expected in files.items():
            file = path / name
            if not file.is_file():
                return f"{name} is missing"
            if file.stat().st_size != expected["size"]:
                return f"{name} has {file.stat().st_size} bytes, expected {expected['size']}"
            if file_sha256(file) != expected["sha256"]:
                return f"{name} does not match its checksum"
    except FileNotFoundError:
        return f"{MANIFEST} is missing"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"{MANIFEST} cannot be read ({error})"
    return None if "state.json" in files else "state.json is missing"


def read(path: Path) -> Checkpoint:
    """Read a checkpoint folder, checksums verified.

    Raises:
        CheckpointError: it is damaged, or written by a newer Inlay.
    """
    if problem := damage(path):
        raise CheckpointError(f"checkpoint {path} is damaged: {problem}")
    state = json.loads((path / "state.json").read_text(encoding="utf-8"))
    if state["format"] > FORMAT:
        raise CheckpointError(
            f"checkpoint {path} has format {state['format']}, this Inlay reads up to {FORMAT}: "
            "update Inlay"
        )
    tensors = {f.stem: load_file(f) for f in sorted(path.glob("*.safetensors"))}
    return Checkpoint(tensors, state, (path / "config.py").read_text(encoding="utf-8"))


def load_weights(path: str | Path) -> dict[str, torch.Tensor]:
    """Return the trained weights of a checkpoint by parameter name, checksums verified.

    Raises:
        CheckpointError: there is no checkpoint at ``path``, or it is damaged.
    """
    folder = locate(path)
    if problem := damage(folder):
        raise CheckpointError(f"checkpoint {folder} is damaged: {problem}")
    return load_file(folder / "model.safetensors")


def locate(path: str | Path) -> Path:
    """Find the folder that the user means: ``iter_300.pth`` is spelled for ``iter_300``.

    Raises:
        CheckpointError: nothing there.
    """
    asked = Path(path)
    bare = asked.with_suffix("") if asked.suffix == ".pth" else asked
    for candidate in (asked, bare):
        if (candidate / "state.json").is_file() or (candidate / MANIFEST).is_file():
            return candidate
    if (asked / POINTER).is_file():
        return asked / (asked / POINTER).read_text(encoding="utf-8").strip()
    if asked.is_file():
        raise CheckpointError(f"{asked} is a file; a checkpoint of Inlay is a folder `iter_N`")
    siblings = [p.name for p in list_checkpoints(asked.parent)]
    raise CheckpointError(
        f"no checkpoint at {asked}.{did_you_mean(bare.name, siblings)}"
        + (f" That folder holds: {', '.join(siblings)}." if siblings else "")
    )


def list_checkpoints(work_dir: Path) -> list[Path]:
    """Return the checkpoint folders of ``work_dir``, oldest first, by position in the run.

    File times play no part: a wrong clock must not decide what is deleted.
    """
    found = []
    for path in work_dir.iterdir() if work_dir.is_dir() else ():
        if NAME.match(path.name) and path.is_dir():
            found.append((_progress(path), path.name, path))
    return [path for _, _, path in sorted(found)]


def _progress(path: Path) -> tuple[int, int]:
    """Sort key: iterations done. A folder whose state cannot be read goes by its name."""
    try:
        state = json.loads((path / "state.json").read_text(encoding="utf-8"))
        return int(state["saved_at_iter"]), 1
    except (OSError, ValueError, KeyError, TypeError):
        match = NAME.match(path.name)
        return (int(match[2]) if match and match[1] == "iter" else 0), 0


def newest_valid(work_dir: Path) -> tuple[Path | None, list[str]]:
    """Return the newest undamaged checkpoint and a line for each newer one that is damaged."""
    problems: list[str] = []
    for path in reversed(list_checkpoints(work_dir)):
        problem = damage(path)
        if problem is None:
            return path, problems
        problems.append(f"{path.name} is damaged and was passed over: {problem}")
    return None, problems


def clean_up(work_dir: Path) -> None:
    """Finish or undo what a killed save left behind. Only for the process that holds the lock."""
    for old in work_dir.glob(".*.old"):
        path = work_dir / old.name[1:].removesuffix(".old")
        if not path.exists():
            old.rename(path)
        shutil.rmtree(old, ignore_errors=True)
    for pointer in work_dir.glob(f".{POINTER}.*.tmp"):
        pointer.unlink()
    for temporary in work_dir.glob(".*.tmp-*"):
        shutil.rmtree(temporary, ignore_errors=True)
