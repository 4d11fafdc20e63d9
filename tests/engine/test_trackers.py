"""Trackers: what reaches them, and that none of them can stop, slow or hold up a run."""

from __future__ import annotations

import json
import logging
import socket
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from toy import build

from inlay.core.errors import ConfigError
from inlay.engine.hooks import CheckpointHook, EpochStatisticsHook, LoggerHook
from inlay.engine.settings import TrainLoop
from inlay.engine.trackers import (
    Guarded,
    LocalVisBackend,
    RunInfo,
    TensorboardVisBackend,
    TrackioVisBackend,
    Visualizer,
    WandbVisBackend,
)
from inlay.engine.trackers import apart as apart_module
from inlay.engine.trackers import guard as guard_module
from inlay.engine.trackers.base import curves
from inlay.engine.trackers.local import save_pictures

INFO = RunInfo("20260101_120000-ab12", "my run", values={"config": {"lr": 0.1}})
LOGGER = logging.getLogger("trackers")


class Recording:
    """A tracker that keeps what it gets; ``faults`` are raised first, ``gate`` holds it up."""

    def __init__(self, faults: list[Exception] | None = None) -> None:
        self.faults = faults or []
        self.gate = threading.Event()
        self.gate.set()
        self.got: list[Any] = []
        self.is_open = self.is_closed = self.is_abandoned = False

    def _pass(self) -> None:
        self.gate.wait()
        if self.faults:
            raise self.faults.pop(0)

    def open(self, folder: Path, info: RunInfo) -> None:
        self._pass()
        self.is_open = True

    def write(self, record: dict[str, Any]) -> None:
        self._pass()
        self.got.append(record["step"])

    def close(self) -> None:
        self.is_closed = True

    def abandon(self) -> None:
        self.is_abandoned = True


def guarded(tracker: Any, folder: Path, count: int) -> Guarded:
    guard = Guarded(tracker, LOGGER)
    guard.open(folder, INFO)
    for step in range(count):
        guard.write({"step": step})
    return guard


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]


def test_a_network_that_comes_back_gets_everything_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(guard_module, "FIRST_PAUSE", 0.001)
    tracker = Recording([ConnectionError("unreachable"), TimeoutError("slow"), OSError("reset")])
    guard = guarded(tracker, tmp_path, 5)
    while len(tracker.got) < 5:
        time.sleep(0.001)
    guard.close()
    assert tracker.got == [0, 1, 2, 3, 4] and tracker.is_closed
    (warning,) = warnings(caplog)
    assert "Recording: unreachable" in warning and "scalars.json" in warning


def test_a_record_that_is_refused_is_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tracker = Recording()
    guard = guarded(tracker, tmp_path, 1)
    while not tracker.got:
        time.sleep(0.001)
    tracker.faults = [ValueError("no such metric"), ValueError("no such metric")]
    for step in (1, 2, 3):
        guard.write({"step": step})
    guard.close()
    assert tracker.got == [0, 3]
    assert len(warnings(caplog)) == 1


def test_nobody_waits_for_a_tracker_that_hangs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(guard_module, "BUFFER", 10)
    monkeypatch.setattr(guard_module, "SILENT", 0.05)
    tracker = Recording()
    tracker.gate.clear()
    began = time.perf_counter()
    guard = guarded(tracker, tmp_path, 1000)
    guard.close()
    assert time.perf_counter() - began < 5
    assert not tracker.is_open and tracker.is_abandoned
    (warning,) = warnings(caplog)
    assert "does not keep up" in warning
    tracker.gate.set()


def test_a_failing_file_is_told_once_and_stops_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    guard = Guarded(LocalVisBackend(), LOGGER)
    guard.open(tmp_path, INFO)
    guard.tracker._scalars.close()  # as if the disk were gone
    for step in range(3):
        guard.write({"step": step, "loss": 1.0})
    guard.close()
    assert len(warnings(caplog)) == 1


def test_files_hold_lines_tables_pictures_and_the_run(tmp_path: Path) -> None:
    tracker = LocalVisBackend()
    tracker.open(tmp_path, INFO)
    tracker.write({"step": 3, "loss": float("nan"), "axis": "evaluation"})
    line = (tmp_path / "scalars.json").read_text()  # at once, before it is closed
    assert json.loads(line) == {"step": 3, "loss": "nan", "axis": "evaluation"}
    tracker.write_table("generations", [{"input": "a", "output": "b"}], 3)
    saved = save_pictures(tmp_path, "a name/1", [("red", Image.new("RGB", (4, 3), "red"))], 3)
    tracker.write_images("grounding", saved, 3)
    tracker.close()
    table = json.loads((tmp_path / "tables.json").read_text())
    assert table == {"step": 3, "name": "generations", "rows": [{"input": "a", "output": "b"}]}
    (shown,) = json.loads((tmp_path / "images.json").read_text())["images"]
    assert shown["caption"] == "red"
    with Image.open(shown["file"]) as image:
        assert image.getpixel((0, 0)) == (255, 0, 0)
    run = json.loads((tmp_path / "run.json").read_text())
    assert run["id"] == INFO.id and run["values"] == {"config": {"lr": 0.1}}


def test_tensorboard_holds_curves_texts_and_pictures(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    tracker = TensorboardVisBackend()
    tracker.open(tmp_path, RunInfo("id", "name", names={"loss": "batch_loss"}, values=INFO.values))
    tracker.write({"step": 4, "loss": 0.5, "lr": 0.125, "val/loss": 0.25, "run_name": "x"})
    tracker.write({"step": 2, "axis": "evaluation", "eval/vqa": 0.75})
    tracker.write_table("generations", [{"input": "a|b", "output": "c\nd"}], 4)
    saved = save_pictures(tmp_path, "p", [("red", Image.new("RGB", (4, 3), "red"))], 4)
    tracker.write_images("grounding", saved, 4)
    tracker.close()
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    tags = events.Tags()
    found = {(tag, e.step): e.value for tag in tags["scalars"] for e in events.Scalars(tag)}
    assert found == {
        ("batch_loss", 4): 0.5,
        ("train/lr", 4): 0.125,
        ("val/loss", 4): 0.25,
        ("eval/vqa", 2): 0.75,
    }
    assert {"config/text_summary", "generations/text_summary"} <= set(tags["tensors"])
    assert tags["images"] == ["grounding/0"]


def test_json_lines_and_tensorboard_are_always_there() -> None:
    kinds = [type(b) for b in Visualizer([Recording()]).backends]
    assert kinds == [LocalVisBackend, TensorboardVisBackend, Recording]
    assert [type(b) for b in Visualizer([LocalVisBackend()]).backends] == [LocalVisBackend]


def test_curves_have_groups_or_the_names_they_are_given() -> None:
    record = {"step": 1, "iter": 1, "loss": 0.5, "val/loss": 0.25, "run_name": "x", "axis": "e"}
    assert curves(record, {"val/loss": "val_loss"}) == {"train/loss": 0.5, "val_loss": 0.25}


@pytest.mark.parametrize("kind", [WandbVisBackend, TrackioVisBackend])
def test_a_package_that_is_missing_is_named(kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apart_module, "is_installed", lambda package: False)
    with pytest.raises(ConfigError, match=r"pip install 'inlay\[track\]'"):
        kind()


def test_a_server_that_never_answers_holds_up_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A real process that waits for a real socket: no write waits, and it is gone at the end."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    monkeypatch.setattr(guard_module, "SILENT", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        tracker = apart_module.Apart("json", "asking:AskingTracker", {"port": port})
        guard = Guarded(tracker, LOGGER)
        guard.open(tmp_path, INFO)
        server.settimeout(60)
        connection, _ = server.accept()  # it is waiting now
        longest = 0.0
        for step in range(200):
            began = time.perf_counter()
            guard.write({"step": step, "loss": 1.0})
            longest = max(longest, time.perf_counter() - began)
        assert tracker._process is not None and tracker._process.poll() is None
        guard.close()
        connection.close()
    assert longest < 1.0
    assert tracker._process.poll() is not None
    (warning,) = warnings(caplog)
    assert "did not answer" in warning and "200 records were not sent" in warning


def test_epochs_have_a_loss_and_a_throughput_also_when_interrupted(tmp_path: Path) -> None:
    """The epoch's loss after a resume inside an accumulation window is that of the whole run."""

    def run(folder: Path, stop: int | None = None, source: Path | None = None) -> list[Any]:
        from inlay.engine import checkpoint as ckpt

        hooks: list[Any] = [LoggerHook(1), EpochStatisticsHook(), CheckpointHook(5, by_epoch=False)]
        runner = build(folder, hooks, accumulate=2, loop=TrainLoop(max_epochs=2))
        if source is not None:
            runner.restore(ckpt.read(source), source)
        got: list[dict[str, Any]] = []

        class Keep(Recording):
            def write(self, record: dict[str, Any]) -> None:
                got.append(record)
                if stop is not None and record.get("iter") == stop:
                    runner.stop("test")

        runner.trackers = [Keep()]
        runner.train()
        return [r for r in got if "epoch/loss" in r]

    whole = run(tmp_path / "whole")
    assert [r["step"] for r in whole] == [12, 24]
    assert all(r["epoch/tokens_per_second"] > 0 for r in whole)
    run(tmp_path / "parts", stop=5)
    resumed = run(tmp_path / "parts", source=tmp_path / "parts" / "iter_5")
    assert [r["epoch/loss"] for r in resumed] == pytest.approx([r["epoch/loss"] for r in whole])
