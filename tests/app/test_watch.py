"""``inlay watch`` on real runs: at work, killed, stopped, failed, stalled; in a real terminal."""

from __future__ import annotations

import io
import json
import os
import pty
import re
import select
import shutil
import signal
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fcntl import ioctl
from pathlib import Path
from termios import TIOCSWINSZ
from typing import Any

import pytest
import runs
from rich.console import Console

from inlay.app import workdir
from inlay.app.runs.state import Watched, lock_owner
from inlay.app.runs.watch import View, as_json, look, once
from inlay.core.errors import InlayError


def status(work_dir: Path) -> dict[str, Any]:
    """What ``inlay watch --json`` says about one run; strict JSON."""
    text = json.dumps(as_json([str(work_dir)]), allow_nan=False)
    return json.loads(text)["runs"][0]


def slow(seconds: float = 0.1) -> Callable[[], None]:
    """For ``before``: micro-batches take longer."""

    def patch() -> None:
        from inlay.engine.parallel.single import SingleDevice

        forward = SingleDevice.forward

        def later(self: Any, model: Any, batch: Any) -> Any:
            time.sleep(seconds)
            return forward(self, model, batch)

        SingleDevice.forward = later  # type: ignore[method-assign]

    return patch


def fail_at_once() -> None:
    """For ``before``: the first micro-batch raises."""
    from inlay.engine.parallel.single import SingleDevice

    def failing(self: Any, model: Any, batch: Any) -> Any:
        raise RuntimeError("the disk \x1b[2J is on fire\nin two lines")

    SingleDevice.forward = failing  # type: ignore[method-assign]


@contextmanager
def held(work_dir: Path) -> Iterator[int]:
    """A process that holds the lock of ``work_dir``, as a run does."""
    ready, tell = os.pipe()
    pid = os.fork()
    if pid == 0:
        lock = workdir.claim(work_dir)
        os.write(tell, b"held")
        time.sleep(60)
        lock.close()
        os._exit(0)
    try:
        assert os.read(ready, 4) == b"held"
        yield pid
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(ready)
        os.close(tell)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("watched läufe")


@pytest.fixture(scope="module")
def config(home: Path, tiny_model: Path) -> Path:
    return runs.write_config(home, tiny_model, save_steps=5, val_fraction=0.2, max_epochs=4)


def test_a_run_that_ended_well(
    home: Path, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    work_dir = home / "good"
    runs.train(config, work_dir)
    found = status(work_dir)
    records = runs.scalars(work_dir)
    last = [r for r in records if "loss" in r][-1]
    val = [r for r in records if "val/loss" in r]
    assert (found["state"], found["detail"], found["pid"]) == ("finished", None, None)
    assert found["iter"] == found["total_iters"] == last["iter"]
    assert found["last"] == last
    assert found["eta_seconds"] is None
    assert found["checkpoint"] == f"iter_{last['iter']}"
    assert found["results"]["val"]["val/loss"] == val[-1]["val/loss"]
    best = min(val, key=lambda r: r["val/loss"])
    assert found["best"] == [best["iter"], best["val/loss"]]
    once([str(work_dir)])
    shown = capsys.readouterr().out
    assert "finished" in shown and f"{last['iter']}/{last['iter']}  100%" in shown
    assert f"loss {last['loss']:.4f}" in shown
    # `inlay test` in the same work dir is a start, but not one of the training.
    code, text = runs.inlay(["test", config, "--work-dir", work_dir], home)
    assert code == 0, text
    after = status(work_dir)
    assert (after["state"], after["starts"], after["iter"]) == ("finished", 2, found["iter"])


def test_a_run_that_was_told_to_stop(home: Path, config: Path) -> None:
    before = runs.stop_at(7, signal.SIGTERM)
    code, _ = runs.inlay(["train", config, "--work-dir", home / "told"], home, before)
    assert code == 143
    found = status(home / "told")
    assert (found["state"], found["detail"]) == ("stopped", "stopped by SIGTERM")


def test_a_run_that_failed_says_why(
    home: Path, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, text = runs.inlay(["train", config, "--work-dir", home / "bad"], home, fail_at_once)
    assert code == 1 and "on fire" in text
    found = status(home / "bad")
    assert (found["state"], found["detail"]) == ("died", "ended by RuntimeError")
    assert found["warned"]["level"] == "ERROR"
    assert found["warned"]["text"].startswith("ended by RuntimeError: the disk \x1b[2J is on fire")
    once([str(home / "bad")])
    shown = capsys.readouterr().out
    assert "is on fire" in shown and "\x1b" not in shown


def test_the_lock_is_asked_and_not_taken(tmp_path: Path) -> None:
    assert not lock_owner(tmp_path).known
    with held(tmp_path) as pid:
        assert lock_owner(tmp_path).pid == pid
        with pytest.raises(InlayError, match=f"process {pid}"):
            workdir.claim(tmp_path)
    assert lock_owner(tmp_path).known and lock_owner(tmp_path).pid is None
    workdir.claim(tmp_path).close()


def test_a_run_that_says_nothing_any_more_is_stalled(tmp_path: Path) -> None:
    folder = tmp_path / "20260101_000000" / "vis_data"
    folder.mkdir(parents=True)
    scalars = folder / "scalars.json"
    record = {"loss": "nan", "time": 2.0}
    scalars.write_text("".join(json.dumps({"iter": i, **record}) + "\n" for i in (10, 20)))
    with held(tmp_path) as pid:

        def state(silent: float) -> tuple[str, str | None]:
            for path in [tmp_path, tmp_path / ".lock", folder.parent, scalars]:
                os.utime(path, (time.time() - silent,) * 2)
            found = Watched(tmp_path).look(10.0)
            return found.state, found.detail

        # Ten iterations of 2 s between two lines: patience is ten times as long.
        assert state(190) == ("running", None)
        assert state(230) == ("stalled", "nothing written for 4 min")
        os.kill(pid, signal.SIGSTOP)
        os.waitpid(pid, os.WUNTRACED)  # until it is
        assert state(0) == ("stalled", f"process {pid} is suspended")
        os.kill(pid, signal.SIGCONT)
        assert status(tmp_path)["last"]["loss"] == "nan"
    assert state(0) == ("died", "its process is gone")


def test_a_run_of_others_is_judged_by_its_log(tmp_path: Path) -> None:
    folder = tmp_path / "20261121_125440"
    (folder / "vis_data").mkdir(parents=True)
    (folder / "vis_data" / "scalars.json").write_text('{"loss": 5.5, "iter": 3, "step": 3}\n')
    (folder / "vis_data" / "config.py").write_text("train_cfg = dict(max_epochs=2, type='x')\n")
    log = folder / f"{folder.name}.log"
    log.write_text("2026/11/21 12:54:45 - mmengine - INFO - Epoch(train) [1][3/4]  lr: 1e-4\n")
    assert (status(tmp_path)["state"], status(tmp_path)["total_iters"]) == ("running", 8)
    for path in [tmp_path, folder, log, folder / "vis_data" / "scalars.json"]:
        os.utime(path, (time.time() - 7200,) * 2)
    found = status(tmp_path)
    assert (found["state"], found["detail"]) == ("died", "nothing written for 2.0 h")
    (folder / "vis_data" / "scalars.json").write_text('{"loss": 5.5, "iter": 8, "step": 8}\n')
    assert status(tmp_path)["state"] == "finished"


def test_evaluations_beside_the_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "20260101_000000" / "vis_data"
    folder.mkdir(parents=True)
    record = {"iter": 30, "loss": 1.5, "step": 30}
    found = {"step": 10, "axis": "evaluation", "eval/vqa/accuracy": 0.25, "eval_weights": "ab"}
    (folder / "scalars.json").write_text(json.dumps(record) + "\n" + json.dumps(found) + "\n")
    results = tmp_path / "eval_results"
    (results / "jobs").mkdir(parents=True)
    (results / "step_20.json").write_text('{"scores": {"vqa": {"accuracy": 0.375}}}')
    for step, state in ((10, "done"), (20, "running"), (30, "failed")):
        job = {"step": step, "checkpoint": f"iter_{step}", "weights": "ab", "state": state}
        (results / "jobs" / f"step_{step}.json").write_text(json.dumps(job))
    seen = status(tmp_path)
    assert seen["results"] == {"eval": {"iter": 20, "eval/vqa/accuracy": 0.375}}
    assert [(job["step"], job["state"]) for job in seen["jobs"]] == [
        (20, "running"),
        (30, "failed"),
    ]
    once([str(tmp_path)])
    shown = capsys.readouterr().out
    assert "eval at 20  vqa/accuracy 0.375" in shown
    assert "evaluation of iter_20 running   evaluation of iter_30 failed" in shown


def test_a_work_dir_that_goes_away_ends_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run" / "20260101_000000" / "vis_data"
    folder.mkdir(parents=True)
    (folder / "scalars.json").write_text('{"iter": 30, "loss": 1.5, "step": 30}\n')
    run = Watched(tmp_path / "run")
    assert run.look(1.0).problems == []
    shutil.rmtree(tmp_path / "run")
    seen = run.look(1.0)
    assert seen.state == "died" and seen.iter == 30
    assert seen.problems == [f"{tmp_path / 'run'}: No such file or directory"]


def test_many_runs_take_a_line_each(tmp_path: Path) -> None:
    names = [tmp_path / f"run_{i}" for i in range(5)]
    for name in names:
        (name / "20260101_000000" / "vis_data").mkdir(parents=True)
        lines = [json.dumps({"iter": i, "loss": 9.0 - i, "step": i}) + "\n" for i in range(1, 9)]
        (name / "20260101_000000" / "vis_data" / "scalars.json").write_text("".join(lines))
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(View(look([Watched(name) for name in names]), rows=12))
    lines = console.export_text().splitlines()
    assert len(lines) < 12
    for name in names:
        assert any(name.name in line and "1.0000" in line and "█" in line for line in lines)


class Terminal:
    """A command in a terminal of 110 x 44 characters."""

    def __init__(self, words: list[str], folder: Path) -> None:
        self.pid, self.screen = pty.fork()
        if self.pid == 0:
            os.chdir(folder)
            os.environ.update(TERM="xterm-256color", COLUMNS="110", LINES="44")
            runs._run(words, Path("/dev/tty"), {}, None)
        ioctl(self.screen, TIOCSWINSZ, struct.pack("HHHH", 44, 110, 0, 0))
        self.output = ""

    def wait_for(self, pattern: str, seconds: float = 60) -> str:
        """Return the newest whole view once it matches ``pattern``."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self._read()
            plain = re.sub(r"\x1b\[[0-9;?]*[a-ln-zA-Z]", "\f", self.output)
            views = [re.sub(r"\x1b\[[0-9;]*m", "", view) for view in plain.split("\f")]
            for view in reversed(views):
                if re.search(pattern, view, re.DOTALL):
                    return view
        raise AssertionError(f"never showed {pattern!r}:\n{self.output[-3000:]}")

    def _read(self) -> None:
        if select.select([self.screen], [], [], 0.1)[0]:
            try:
                self.output += os.read(self.screen, 1 << 16).decode(errors="replace")
            except OSError:  # the other end is closed
                time.sleep(0.05)

    def end(self) -> int:
        """Press Ctrl-C; return the exit code."""
        os.write(self.screen, b"\x03")
        end = time.monotonic() + 20
        while time.monotonic() < end:
            self._read()
            pid, code = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self._read()
                return os.waitstatus_to_exitcode(code)
        os.kill(self.pid, signal.SIGKILL)
        raise AssertionError("Ctrl-C did not end it")


def test_two_live_runs_in_a_terminal_and_one_is_killed(home: Path, config: Path) -> None:
    children = [
        runs.start(["train", config, "--work-dir", home / name], home, before=slow())
        for name in ("steady", "fragile")
    ]
    steady, fragile = children
    for child in children:
        child.wait_for("Iter(train) [ 4/")
    terminal = Terminal(["watch", "steady", "fragile", "--interval", "0.2"], home)
    view = terminal.wait_for(rf"process {steady.pid}.*steady.*process {fragile.pid}.*fragile")
    assert len(re.findall(r"running \(process", view)) == 2
    assert "eta 0:00:" in view and "tokens/s" in view and "⠉" in view
    fragile.wait_for("Iter(train) [ 8/")
    os.kill(fragile.pid, signal.SIGKILL)
    assert fragile.wait() == -signal.SIGKILL
    terminal.wait_for(r"running.*steady.*died \(its process is gone\)  fragile")
    assert steady.wait() == 0, steady.text
    terminal.wait_for(r"finished  steady.*died")
    assert terminal.end() == 0
    assert "\x1b[?1049l" in terminal.output  # the terminal is given back, the last view stays
    rest = terminal.output.rpartition("\x1b[?1049l")[2]
    assert "finished" in rest and "died" in rest
    # Being looked at changes nothing: as the run of the same seed that nobody watched.
    assert runs.trained(home / "steady") == runs.trained(home / "good")


def test_wrong_options(tmp_path: Path) -> None:
    code, text = runs.inlay(["watch", tmp_path, "--once"], tmp_path)
    assert code == 1 and "is not the work dir of a run" in text and "Traceback" not in text
    (tmp_path / ".lock").touch()
    code, text = runs.inlay(["watch", tmp_path, "--interval", "0"], tmp_path)
    assert code == 1 and "--interval must be more than 0" in text
    code, text = runs.inlay(["watch", tmp_path, "--once", "--json"], tmp_path)
    assert code == 2 and "not allowed with" in text
    code, text = runs.inlay(["watch", tmp_path], tmp_path)  # not a terminal: as with --once
    assert code == 0 and "before its first record" in text
