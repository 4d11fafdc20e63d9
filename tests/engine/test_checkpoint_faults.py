"""Checkpoints under fire: kills at every system call, damage, full and read-only disks."""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from toy import build

from inlay.core.errors import CheckpointError
from inlay.engine import checkpoint as ckpt
from inlay.engine.hooks import CheckpointHook


def small(step: int) -> ckpt.Checkpoint:
    tensors = {"model": {"w": torch.full((64,), float(step))}, "rng_0": {"torch": torch.zeros(8)}}
    return ckpt.Checkpoint(tensors, {"saved_at_iter": step, "run": {}}, f"step = {step}\n")


def fork(work: Callable[[], None]) -> int:
    """Run ``work`` in a child that shares everything already imported. Returns its pid."""
    pid = os.fork()
    if pid:
        return pid
    try:
        work()
        os._exit(0)
    except BaseException as error:
        print(f"child: {error!r}", flush=True)
        os._exit(1)


def exit_code(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


CALLS = [(os, n) for n in ("fsync", "open", "rename", "replace", "rmdir", "unlink", "mkdir")]


def die_at(call: int) -> None:
    """Kill this process like SIGKILL does, right before the ``call``-th system call of a save."""
    left = [call]

    def wrap(real: Any) -> Any:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            left[0] -= 1
            if left[0] < 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*args, **kwargs)

        return wrapped

    for module, name in CALLS:
        setattr(module, name, wrap(getattr(module, name)))
    ckpt.write_tensors = wrap(ckpt.write_tensors)


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_kill_at_every_system_call_of_a_save_leaves_a_resumable_folder(
    tmp_path: Path, overwrite: bool
) -> None:
    finished = False
    call = 0
    while not finished:
        work = tmp_path / str(call)
        ckpt.write(work / "iter_2", small(2))
        ckpt.point_to(work, "iter_2")

        def save(work: Path = work, call: int = call) -> None:
            die_at(call)
            name = "iter_2" if overwrite else "iter_4"
            ckpt.write(work / name, small(2 if overwrite else 4))
            ckpt.point_to(work, name)
            if not overwrite:
                shutil.rmtree(work / "iter_2")

        finished = exit_code(fork(save)) == 0
        ckpt.clean_up(work)
        newest, _ = ckpt.newest_valid(work)
        assert newest is not None, f"killed before call {call}"
        step = ckpt.read(newest).state["saved_at_iter"]
        assert step in (2, 4)
        assert not [p for p in work.iterdir() if p.name.startswith(".iter")]
        call += 1
    assert call > 15


def test_every_corruption_is_detected_and_the_checkpoint_before_is_used(tmp_path: Path) -> None:
    ckpt.write(tmp_path / "iter_2", small(2))
    ckpt.write(tmp_path / "iter_4", small(4))
    original = shutil.copytree(tmp_path / "iter_4", tmp_path / "original")
    draw = random.Random(0)
    files = sorted(p.name for p in original.iterdir())
    for trial in range(100):
        shutil.rmtree(tmp_path / "iter_4")
        shutil.copytree(original, tmp_path / "iter_4")
        file = tmp_path / "iter_4" / draw.choice(files)
        content = bytearray(file.read_bytes())
        if trial % 2:
            content = content[: draw.randrange(len(content))]
        else:
            content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
        file.write_bytes(content)
        newest, problems = ckpt.newest_valid(tmp_path)
        if newest is not None and newest.name == "iter_4":
            # Only white space or a digit of the manifest's own version may be harmless.
            assert file.name == ckpt.MANIFEST
            assert torch.equal(ckpt.load_weights(newest)["w"], torch.full((64,), 4.0))
            continue
        assert newest == tmp_path / "iter_2" and "iter_4 is damaged" in problems[0]
        with pytest.raises(CheckpointError, match="damaged"):
            ckpt.read(tmp_path / "iter_4")


def test_a_full_disk_keeps_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ckpt.write(tmp_path / "iter_2", small(2))
    real = os.fsync
    for level in range(8):
        left = [level]

        def full(handle: int, left: list[int] = left) -> None:
            left[0] -= 1
            if left[0] < 0:
                raise OSError(28, "No space left on device")
            real(handle)

        monkeypatch.setattr(os, "fsync", full)
        try:
            ckpt.write(tmp_path / "iter_4", small(4))
        except CheckpointError as error:
            assert "No space left" in str(error)
        monkeypatch.setattr(os, "fsync", real)
        assert ckpt.damage(tmp_path / "iter_2") is None
        assert not [p for p in tmp_path.iterdir() if p.name.startswith(".iter_4.tmp")]
        shutil.rmtree(tmp_path / "iter_4", ignore_errors=True)


def test_names_that_users_spell_differently_find_the_folder(tmp_path: Path) -> None:
    ckpt.write(tmp_path / "iter_300", small(300))
    ckpt.point_to(tmp_path, "iter_300")
    for asked in ("iter_300", "iter_300.pth", "iter_300/", ""):
        assert ckpt.locate(f"{tmp_path}/{asked}").name == "iter_300"
    with pytest.raises(CheckpointError, match=r"Did you mean 'iter_300'"):
        ckpt.locate(tmp_path / "iter_30")


@pytest.mark.long
@pytest.mark.timeout(900)
def test_200_random_kills_lose_at_most_one_interval_and_no_bit(tmp_path: Path) -> None:
    """Reliability rows 1 and 2: save every 2 steps, keep 1, kill at random moments."""

    def train(work: Path) -> None:
        ckpt.clean_up(work)
        hook = CheckpointHook(2, by_epoch=False, max_keep_ckpts=1)
        runner = build(work, [hook, Progress(work)])
        newest, _ = ckpt.newest_valid(work)
        if newest is not None:
            runner.restore(ckpt.read(newest), newest)
        runner.train()

    class Progress:
        def __init__(self, work: Path) -> None:
            self.file = work / "progress"

        def after_train_iter(
            self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None
        ) -> None:
            self.file.write_text(str(runner.iter + 1))

    reference = tmp_path / "whole"
    reference.mkdir()
    began = time.monotonic()
    assert exit_code(fork(lambda: train(reference))) == 0
    span = time.monotonic() - began
    wanted = ckpt.load_weights(reference / "iter_36")
    draw = random.Random(1)
    kills = 0
    trial = 0
    while kills < 200:
        work = tmp_path / f"run{trial}"
        work.mkdir()
        trial += 1
        while True:
            pid = fork(lambda work=work: train(work))
            # Half of the kills are aimed at the short time a save takes to appear.
            time.sleep(draw.uniform(0, span))
            os.kill(pid, signal.SIGKILL)
            code = exit_code(pid)
            if code == 0:
                break
            kills += 1
            assert code == -signal.SIGKILL
            newest, problems = ckpt.newest_valid(work)
            reached = int((work / "progress").read_text() or 0) if (
                work / "progress").exists() else 0  # fmt: skip
            if newest is None:
                assert reached <= 2
                continue
            assert not problems
            assert reached - int(newest.name.removeprefix("iter_")) <= 2
        got = ckpt.load_weights(work / "iter_36")
        assert all(torch.equal(got[k], wanted[k]) for k in wanted)
        shutil.rmtree(work)
