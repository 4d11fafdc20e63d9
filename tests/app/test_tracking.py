"""Trackers of whole runs: the same numbers everywhere, one run over all starts, no secrets."""

from __future__ import annotations

import json
import os
import socket
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from runs import inlay, scalars, start, train_ranks, trained, write_config
from tracked import trackio_rows, wandb_axes, wandb_history, wandb_records

from inlay.engine.trackers.base import RunInfo
from inlay.engine.trackers.wandb import WandbRun

IN_ENVIRONMENT = {
    "HF_TOKEN": "canary1 of the hub",
    "WANDB_API_KEY": "canary2" + "0" * 33,
    "AWS_SECRET_ACCESS_KEY": "canary3/with+signs",
    "PROXY_PASSWORD": "canary4-proxy",
}
IN_CONFIG = """
hub_token = "canary5-of-a-setting"
access_token = None
services = dict(openai_api_key="canary6-nested", mine=dict(token=access_token))
mirror = "https://me:canary7-pass@mirror.example/rows.json?split=train&token=canary8-query"
notes = "written with hf_canary9Canary9Canary9Canary9"
"""
IN_OPTION = "canary10-option"
CANARIES = [f"canary{number}" for number in range(1, 11)]


@dataclass
class Starts:
    """Two starts of one run, with both trackers."""

    folder: Path
    work_dir: Path
    said: str

    @property
    def wandb_files(self) -> list[Path]:
        return sorted(self.work_dir.glob("*/vis_data/wandb/offline-run-*/*.wandb"))


@pytest.fixture(scope="module")
def starts(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Starts:
    folder = tmp_path_factory.mktemp("tracked")
    config = write_config(
        folder, tiny_model, val_fraction=0.2, evaluation_inputs=["why?"], run_name="tiny_{date}"
    )
    config.write_text(config.read_text() + IN_CONFIG)
    environment = {**IN_ENVIRONMENT, "TRACKIO_DIR": str(folder / "trackio")}
    words = ["train", config, "--work-dir", folder / "w", "--track", "wandb-offline,trackio"]
    said = ""
    for epochs in (1, 2):
        options = ["--cfg-options", f"max_epochs={epochs}", f"access_token={IN_OPTION}"]
        resume = ["--resume"] if epochs == 2 else []
        child = start([*words, *resume, *options], folder, environment)
        code = child.wait(240)
        said += child.text
        assert code == 0, child.text
    return Starts(folder, folder / "w", said)


def test_the_files_of_both_trackers_hold_the_numbers_of_scalars_json(starts: Starts) -> None:
    assert len(trained(starts.work_dir)) > 4
    wandb: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for row in (row for file in starts.wandb_files for row in wandb_history(file)):
        wandb[row["_step"]].append(row)
    trackio: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for row in trackio_rows(starts.folder / "trackio"):
        trackio[row["step"]].append(row)
    judged = 0
    for record in scalars(starts.work_dir):
        # The last line of an epoch and the validation behind it share a step, not the epoch.
        numbers = {
            key if "/" in key else f"train/{key}": value
            for key, value in record.items()
            if key not in ("step", "iter", "epoch") and isinstance(value, int | float)
        }
        judged += "val/loss" in numbers
        for rows in (wandb, trackio):
            assert any(numbers.items() <= row.items() for row in rows[record["step"]]), record
    assert judged >= 2


def test_a_resumed_run_is_the_same_run_in_both(starts: Starts) -> None:
    first, second = starts.wandb_files
    ids = {r.run.run_id for f in (first, second) for r in wandb_records(f) if r.HasField("run")}
    names = {r["run_name"] for r in scalars(starts.work_dir) if "run_name" in r}
    (info, again) = (json.loads(f.read_text()) for f in starts.work_dir.glob("*/*/run.json"))
    assert ids == {info["id"]} == {again["id"]}
    assert (
        {row["run"] for row in trackio_rows(starts.folder / "trackio")} == names == {info["name"]}
    )
    assert info["name"].startswith("tiny_")
    assert {info["resumed"], again["resumed"]} == {False, True}


def test_trackers_change_nothing_that_is_trained(starts: Starts, tmp_path: Path) -> None:
    config = starts.folder / "tiny.py"
    code, said = inlay(
        ["train", config, "--work-dir", tmp_path / "w", "--cfg-options", "max_epochs=1"], tmp_path
    )
    assert code == 0, said
    alone = trained(tmp_path / "w")
    assert alone and alone == trained(starts.work_dir)[: len(alone)]


def test_config_plan_and_environment_are_recorded_once(starts: Starts) -> None:
    (values,) = [
        json.loads(update.value_json)
        for record in wandb_records(starts.wandb_files[0])
        if record.HasField("run")
        for update in record.run.config.update
        if update.key == "config"
    ]
    assert values["lr"] == 1e-2 and values["hub_token"] == "[redacted]"
    first = min(starts.work_dir.glob("*/vis_data/run.json"))
    run = json.loads(first.read_text())["values"]
    assert run["plan"]["updates"] * 2 >= run["plan"]["iterations"] > 0
    assert run["environment"]["packages"]["torch"]


def test_answers_are_tables(starts: Starts) -> None:
    first = min(starts.work_dir.glob("*/vis_data/tables.json"))
    table = json.loads(first.read_text().splitlines()[0])
    assert table["name"] == "generations" and table["rows"][0]["input"] == "why?"
    rows = trackio_rows(starts.folder / "trackio")
    (shown, *_) = [row["generations"] for row in rows if "generations" in row]
    assert shown["_value"] == table["rows"]


def test_no_secret_is_in_what_was_said_or_written(starts: Starts) -> None:
    """Reliability row 26: logs, dumps, checkpoints, and the trackers' own files."""
    written = [
        path
        for root in (starts.work_dir, starts.folder / "trackio")
        for path in root.rglob("*")
        if path.is_file()
    ]
    assert any(path.name == "config.py" for path in written)
    assert any("iter_" in str(path) for path in written)
    found = [
        (canary, str(path))
        for path in written
        for canary in CANARIES
        if canary.encode() in path.read_bytes()
    ]
    assert found == []
    assert [canary for canary in CANARIES if canary in starts.said] == []


def test_no_secret_is_in_an_error(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = write_config(tmp_path, tiny_model)
    for name, value in IN_ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    for debug in ("0", "1"):
        monkeypatch.setenv("INLAY_DEBUG", debug)
        options = [
            f"data_path={tmp_path}/{IN_ENVIRONMENT['PROXY_PASSWORD']}/x?token={IN_OPTION}.json"
        ]
        words = ["train", config, "--work-dir", tmp_path / "w", "--cfg-options", *options]
        code, said = inlay(words, tmp_path)
        assert code == 1 and "[redacted]" in said
        assert [canary for canary in CANARIES if canary in said] == []


class Opened:
    """A tracker that says which process opened it."""

    def __init__(self, into: str) -> None:
        self.into = into

    def open(self, folder: Path, info: Any) -> None:
        (Path(self.into) / f"opened.{os.environ.get('RANK')}").touch()

    def write(self, record: dict[str, Any]) -> None: ...

    def close(self) -> None:
        (Path(self.into) / f"closed.{os.environ.get('RANK')}").touch()


def test_only_rank_0_opens_trackers(tmp_path: Path, tiny_model: Path) -> None:
    config = write_config(tmp_path, tiny_model, max_epochs=1)
    here = f"sys.path.insert(0, {str(Path(__file__).parent)!r})\nfrom test_tracking import Opened\n"
    node = f"dict(type=Opened, into={str(tmp_path)!r})"
    visualizer = f"visualizer = dict(type=Visualizer, vis_backends=[{node}])\n"
    config.write_text("import sys\n" + here + config.read_text() + visualizer)
    train_ranks(config, tmp_path / "w")
    assert sorted(p.name for p in tmp_path.glob("*ed.[0-9]")) == ["closed.0", "opened.0"]
    assert len(list((tmp_path / "w").glob("*/vis_data/scalars.json"))) == 1


def test_an_evaluation_has_an_axis_of_its_own(tmp_path: Path) -> None:
    """In this process: the tracker itself, two judged checkpoints between two lines."""
    run = WandbRun({"mode": "offline", "settings": {"console": "off", "silent": True}}, {})
    run.open(tmp_path, RunInfo("id-1", "name"))
    for record in (
        {"step": 50, "loss": 0.5},
        {"step": 20, "axis": "evaluation", "eval/vqa": 0.25},
        {"step": 40, "axis": "evaluation", "eval/vqa": 0.75},
        {"step": 50, "val/loss": 0.125},
        {"step": 60, "loss": 0.25},
    ):
        run.write(record)
    run.close()
    (file,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    rows = wandb_history(file)
    assert [(r["evaluation_step"], r["eval/vqa"]) for r in rows] == [(20, 0.25), (40, 0.75)]
    assert [(r["_step"], r["train/loss"]) for r in rows] == [(50, 0.5), (60, 0.25)]
    assert rows[0]["val/loss"] == 0.125
    assert wandb_axes(file) == {"eval/vqa": "evaluation_step"}


def test_a_server_of_wandb_that_never_answers_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run is recorded offline, under its own id."""
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    with socket.create_server(("127.0.0.1", 0)) as server:
        quick = {"init_timeout": 1, "base_url": f"http://127.0.0.1:{server.getsockname()[1]}"}
        run = WandbRun({"settings": {"console": "off", "silent": True, **quick}}, {})
        note = run.open(tmp_path, RunInfo("id-2", "name"))
        assert note is not None and "wandb sync" in note
        run.write({"step": 3, "loss": 0.5})
        run.close()
    (file,) = tmp_path.glob("wandb/offline-run-*-id-2/*.wandb")
    assert [(r["_step"], r["train/loss"]) for r in wandb_history(file)] == [(3, 0.5)]
