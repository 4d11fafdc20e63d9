"""The command line in processes of its own, killed and resumed, for the end-to-end tests."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

EXACT = ("iter", "update", "epoch", "loss", "lr", "grad_norm", "tokens", "samples")


def inlay(*words: str, cwd: Path, **kwargs: Any) -> subprocess.CompletedProcess[str]:
    """Run the command line as a user does."""
    env = {**os.environ, "OMP_NUM_THREADS": "1", "INLAY_CACHE": str(cwd / "cache")}
    return subprocess.run(
        [sys.executable, "-m", "inlay", *words],
        cwd=cwd, env=env, capture_output=True, text=True, timeout=600, **kwargs,
    )  # fmt: skip


def records(work_dir: Path) -> list[dict[str, Any]]:
    """All records of a work dir, start after start."""
    files = sorted(work_dir.glob("*/vis_data/scalars.json"))
    return [json.loads(line) for f in files for line in f.read_text().splitlines()]


def train_killed_and_resumed(
    cwd: Path,
    run: Sequence[str],
    work_dir: str,
    kills: int,
    draw: random.Random,
    after: range = range(8, 16),
) -> None:
    """Train, with ``kills`` SIGKILLs at random moments, each ``after`` new records or more.

    Args:
        run: config and options of ``inlay train``.
    """
    env = {**os.environ, "OMP_NUM_THREADS": "1", "INLAY_CACHE": str(cwd / "cache")}
    config, *options = run
    command = [sys.executable, "-m", "inlay", "train", config, "--work-dir", work_dir, "--resume"]
    command += options
    for _ in range(kills):
        child = subprocess.Popen(command, cwd=cwd, env=env, stderr=subprocess.DEVNULL)
        started = len(records(cwd / work_dir))
        wanted = started + draw.choice(after)
        while child.poll() is None and len(records(cwd / work_dir)) < wanted:
            time.sleep(0.05)
        child.send_signal(signal.SIGKILL)
        child.wait()
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert "Auto resumed from the latest checkpoint" in done.stderr


def check_equal_after_resume(whole: list[dict[str, Any]], parts: list[dict[str, Any]]) -> None:
    """Every record of the interrupted run, repeated iterations too, equals the whole run's."""
    reference = {r["iter"]: {k: r[k] for k in EXACT} for r in whole if "loss" in r}
    trained = [r for r in parts if "loss" in r]
    assert len(trained) >= len(reference)
    for record in trained:
        assert {k: record[k] for k in EXACT} == reference[record["iter"]]
    assert {r["iter"] for r in trained} == set(reference)
