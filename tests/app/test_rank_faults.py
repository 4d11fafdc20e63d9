"""A rank that dies or freezes ends all of them, soon, with a word about it (reliability row 17)."""

from __future__ import annotations

import os
import random
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from runs import Child, start, start_ranks, train_ranks, trained, write_config

from inlay.engine import checkpoint as ckpt

PATIENCE = 10
"""Seconds without a heartbeat after which a rank is frozen, in these tests."""
TWO = ("--cfg-options", "batch_size=1", "max_epochs=200")


def run(folder: Path, model: Path, **settings: Any) -> list[Child]:
    """Start a long run on two ranks; return it when it trains."""
    config = write_config(folder, model, lr=1e-3, save_steps=40, keep=2, **settings)
    with config.open("a") as file:
        file.write(f"env_cfg = dict(dist_cfg=dict(heartbeat_timeout={PATIENCE}))\n")
    children = start_ranks(["train", config, "--work-dir", folder / "w", *TWO], folder, 2)
    children[0].wait_for("Iter(train)")
    return children


def everybody(children: list[Child]) -> list[psutil.Process]:
    """All processes of a run: its ranks and their workers."""
    ranks = [psutil.Process(c.pid) for c in children]
    return [*ranks, *(w for r in ranks for w in r.children(recursive=True))]


def gone(processes: list[psutil.Process], seconds: float) -> bool:
    """Whether none of them is left after at most ``seconds``."""
    _, alive = psutil.wait_procs(processes, timeout=seconds)
    return not [p for p in alive if p.status() != psutil.STATUS_ZOMBIE]


def freeze_in(name: str) -> Callable[[], None]:
    """For ``before``: this process stops like SIGSTOP does, in a function of the loop."""

    def patch() -> None:
        from inlay.engine import loop

        def frozen(*args: Any, **kwargs: Any) -> Any:
            os.kill(os.getpid(), signal.SIGSTOP)

        setattr(loop, name, frozen)

    return patch


@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_rank_ends_the_other_at_once(
    tmp_path: Path, tiny_model: Path, victim: int
) -> None:
    """With a loader's worker, which holds the connections of its rank open for a while."""
    children = run(tmp_path, tiny_model, dataloader_num_workers=1)
    processes = everybody(children)
    assert len(processes) == 4
    began = time.monotonic()
    os.kill(children[victim].pid, signal.SIGKILL)
    other = children[1 - victim]
    assert other.wait(30) == 1
    assert time.monotonic() - began <= 5
    assert f"rank {victim} (process {children[victim].pid} on " in other.text, other.text
    assert re.search(
        rf"has ended before its work was done\. Rank {1 - victim} was waiting for it in training, "
        r"\w+ \(inlay/engine/[\w/]+\.py:\d+\)",
        other.text,
    ), other.text
    assert children[victim].wait() == -signal.SIGKILL
    assert gone(processes, 10), "orphans"


@pytest.mark.long
@pytest.mark.parametrize("victim", [0, 1])
def test_a_frozen_rank_is_ended_with_the_others(
    tmp_path: Path, tiny_model: Path, victim: int
) -> None:
    children = run(tmp_path, tiny_model)
    processes = everybody(children)
    began = time.monotonic()
    os.kill(children[victim].pid, signal.SIGSTOP)
    other = children[1 - victim]
    assert other.wait(60) == 1
    assert PATIENCE - 2 <= time.monotonic() - began <= PATIENCE + 10
    said = f"rank {victim} (process {children[victim].pid} on "
    assert said in other.text and f"frozen: it has not answered for {PATIENCE} s" in other.text
    assert children[victim].wait(5) == -signal.SIGKILL, "SIGTERM does not wake a stopped process"
    assert gone(processes, 5), "orphans"


@pytest.mark.long
def test_what_takes_long_is_no_fault_and_leaving_early_neither(
    tmp_path: Path, tiny_model: Path
) -> None:
    """Rank 1 holds the interpreter for two timeouts while the other waits; rank 0 ends late."""
    config = write_config(tmp_path, tiny_model, batch_size=1, max_epochs=1)
    with config.open("a") as file:
        file.write("env_cfg = dict(dist_cfg=dict(heartbeat_timeout=3))\n")

    def hold() -> None:
        import ctypes

        from inlay.engine import loop

        update, seen = loop._update, [0]

        def slow(runner: Any) -> None:
            seen[0] += 1
            if seen[0] == 2:  # with the interpreter's lock, as the parser of a large file has it
                ctypes.PyDLL(None).usleep(6_000_000)
            update(runner)

        loop._update = slow

    def linger() -> None:
        from inlay.app import train as module

        end = module.end_process

        def late() -> None:
            time.sleep(5)
            end()

        module.end_process = late

    words = ["train", config, "--work-dir", tmp_path / "w"]
    children = start_ranks(words, tmp_path, 2, [linger, hold])
    codes = [child.wait() for child in children]
    assert codes == [0, 0], "\n".join(child.text for child in children)


def test_an_error_of_one_rank_ends_the_other(tmp_path: Path, tiny_model: Path) -> None:
    def fail() -> None:
        from inlay.core.errors import DataError
        from inlay.engine import loop

        def broken(runner: Any) -> None:
            raise DataError("rows.json:7 is no picture")

        loop._update = broken

    config = write_config(tmp_path, tiny_model, batch_size=1)
    words = ["train", config, "--work-dir", tmp_path / "w"]
    children = start_ranks(words, tmp_path, 2, [None, fail])
    began = time.monotonic()
    assert children[1].wait() == 1 and "error: rows.json:7 is no picture" in children[1].text
    assert children[0].wait(30) == 1
    assert "rank 1 (process" in children[0].text and "has ended" in children[0].text
    assert time.monotonic() - began < 60


@pytest.mark.long
def test_kills_at_random_moments_leave_a_run_that_goes_on(tmp_path: Path, tiny_model: Path) -> None:
    """Ten kills of a random rank: all end, no checkpoint is damaged, the lines are the same."""
    config = write_config(
        tmp_path, tiny_model, lr=1e-3, batch_size=1, save_steps=4, keep=2, max_epochs=30
    )
    work, draw = tmp_path / "w", random.Random(0)
    train_ranks(config, tmp_path / "whole")
    words = ["train", config, "--work-dir", work, "--resume"]
    kills, last = 0, (tmp_path / "whole" / "last_checkpoint").read_text()
    for _ in range(10):
        if (work / last).is_dir():
            break  # a fast machine: it is through
        children = start_ranks(words, tmp_path, 2)
        children[0].wait_for("train sample 0")  # the ranks have met: before, it is the launcher's
        processes = everybody(children)
        time.sleep(draw.uniform(0, 1.5))
        victim = draw.choice(children)
        os.kill(victim.pid, signal.SIGKILL)
        began = time.monotonic()
        codes = [child.wait(60) for child in children]
        assert time.monotonic() - began <= 5, (codes, [c.text for c in children])
        kills += -signal.SIGKILL in codes
        assert gone(processes, 10), "orphans"
        newest, damaged = ckpt.newest_valid(work)
        assert not damaged and (newest is not None or not ckpt.list_checkpoints(work))
    assert kills >= 5
    train_ranks(config, work, "--resume")
    assert set(trained(tmp_path / "whole")) <= set(trained(work))


@pytest.mark.long
@pytest.mark.parametrize("fault", [signal.SIGKILL, signal.SIGSTOP])
def test_under_the_launcher_no_process_is_left(
    tmp_path: Path, tiny_model: Path, fault: signal.Signals
) -> None:
    config = write_config(tmp_path, tiny_model, lr=1e-3)
    with config.open("a") as file:
        file.write(f"env_cfg = dict(dist_cfg=dict(heartbeat_timeout={PATIENCE}))\n")
    words = ["train", config, "--work-dir", tmp_path / "w", "--gpus", "2", *TWO]
    launcher = start(words, tmp_path, before=lambda: _argv(words))
    launcher.wait_for("Iter(train)")
    processes = psutil.Process(launcher.pid).children(recursive=True)
    ranks = {rank: p for p in processes if (rank := p.environ().get("RANK"))}
    began = time.monotonic()
    os.kill(ranks["1"].pid, fault)
    assert gone(list(ranks.values()), 5 if fault == signal.SIGKILL else 45), launcher.text
    assert launcher.wait(60 - (time.monotonic() - began)) not in (0, 99), launcher.text
    assert f"rank 1 (process {ranks['1'].pid} on " in launcher.text, launcher.text
    assert gone(processes, 5), "orphans"


def _argv(words: list[Any]) -> None:
    import sys

    sys.argv = ["inlay", *map(str, words)]
