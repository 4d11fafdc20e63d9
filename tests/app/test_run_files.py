"""What is read from work dirs: resumed runs joined, odd lines, big files, foreign layouts."""

from __future__ import annotations

import json
import math
import signal
import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
import runs

from inlay.app.runs.files import ELAPSED, RunFiles, Series
from inlay.app.runs.folders import check_work_dirs
from inlay.app.runs.log import RunLog
from inlay.app.runs.tail import BLOCK, Tail
from inlay.core.errors import InlayError


def start(work_dir: Path, name: str, records: list[Any], log: str = "") -> Path:
    """Write a start of a run; returns its ``scalars.json``."""
    folder = work_dir / name
    (folder / "vis_data").mkdir(parents=True)
    (folder / f"{name}.log").write_text(log, encoding="utf-8")
    path = folder / "vis_data" / "scalars.json"
    path.write_text("".join(json.dumps(r) + "\n" for r in records), encoding="utf-8")
    return path


def trained(iteration: int, loss: Any, **more: Any) -> dict[str, Any]:
    return {"iter": iteration, "loss": loss, "time": 2.0, "step": iteration, **more}


def read(work_dir: Path, *keys: str, **settings: Any) -> RunFiles:
    files = RunFiles(work_dir, keys or ("loss",), **settings)
    assert files.read()
    return files


def pairs(series: Series) -> list[tuple[int, float]]:
    return list(zip(series.iters, series.values, strict=True))


def test_a_resumed_run_reads_as_one_that_was_never_stopped(
    tmp_path: Path, tiny_model: Path
) -> None:
    config = runs.write_config(tmp_path, tiny_model, save_steps=5, val_fraction=0.2)
    runs.train(config, tmp_path / "whole")
    words = ["train", config, "--work-dir", tmp_path / "killed"]
    for batch, more in ((13, []), (6, ["--resume"])):
        code, text = runs.inlay([*words, *more], tmp_path, runs.stop_at(batch, signal.SIGKILL))
        assert code == -signal.SIGKILL, text
    runs.train(config, tmp_path / "killed", "--resume")
    assert len(runs.trained(tmp_path / "killed")) > len(runs.trained(tmp_path / "whole"))
    keys = "loss", "lr", "tokens", "update"
    whole, killed = (read(tmp_path / name, *keys) for name in ("whole", "killed"))
    assert len(killed.starts) == 3
    assert len(whole.lines["loss"].iters) == whole.last["iter"]
    for key in keys:
        assert pairs(killed.lines[key]) == pairs(whole.lines[key])
    for key in ("val/loss", "val/perplexity"):
        assert pairs(killed.points[key]) == pairs(whole.points[key])


def test_a_resume_supersedes_what_came_after_its_checkpoint(tmp_path: Path) -> None:
    first = [trained(i, float(i)) for i in (10, 20, 30)]
    first += [{"iter": 25, "step": 25, "val/loss": 1.0}, {"iter": 31, "step": 31, "val/loss": 2.0}]
    first += [{"step": 30, "axis": "evaluation", "eval/vqa/accuracy": 0.5, "eval_weights": "ab"}]
    start(tmp_path, "20260101_000000", first)
    log = "01/01 00:00:00 - inlay - INFO - Resumed from checkpoint w/best_loss_iter_25. Continues"
    path = start(tmp_path, "20260101_000001", [], log + "\n")
    files = read(tmp_path, "loss", ELAPSED)
    assert pairs(files.lines["loss"]) == [(10, 10.0), (20, 20.0), (30, 30.0)]
    path.write_text(json.dumps(trained(40, 4.0)) + "\n", encoding="utf-8")
    files.read()
    assert pairs(files.lines["loss"]) == [(10, 10.0), (20, 20.0), (40, 4.0)]
    assert pairs(files.points["val/loss"]) == [(25, 1.0)]
    # 2 s an iteration: 20 of them, then those after the checkpoint.
    assert pairs(files.lines[ELAPSED]) == [(10, 20.0), (20, 40.0), (40, 70.0)]
    # The checkpoint that was evaluated was there; a later result for it takes its place.
    assert pairs(files.points["eval/vqa/accuracy"]) == [(30, 0.5)]
    line = json.dumps({"step": 30, "axis": "evaluation", "eval/vqa/accuracy": 0.75}) + "\n"
    path.write_text(path.read_text() + line)
    files.read()
    assert pairs(files.points["eval/vqa/accuracy"]) == [(30, 0.75)]
    assert files.newest("eval") == {"iter": 30, "eval/vqa/accuracy": 0.75}


def test_results_that_the_run_has_not_logged_are_read_from_their_files(tmp_path: Path) -> None:
    start(tmp_path, "20260101_000000", [trained(10, 1.0)])
    results = tmp_path / "eval_results"
    results.mkdir()
    (results / "step_20.json").write_text('{"scores": {"vqa": {"accuracy": 0.25}}}')
    (results / "step_10.json").write_text('{"scores": {"vqa": {"accur')
    files = read(tmp_path)
    assert pairs(files.points["eval/vqa/accuracy"]) == [(20, 0.25)]
    (results / "step_10.json").write_text('{"scores": {"vqa": {"accuracy": 0.125, "n": 8}}}')
    files.read()
    assert pairs(files.points["eval/vqa/accuracy"]) == [(10, 0.125), (20, 0.25)]


def test_odd_lines(tmp_path: Path) -> None:
    records = [trained(1, "nan"), trained(2, "-inf"), trained(3, 2.5), "text", [1], 5]
    records += [
        trained(4, None),
        trained(5, "12"),
        {"loss": 1.0},
        {"step": 0, "run_name": "läufer"},
    ]
    path = start(tmp_path, "20260101_000000", records)
    with path.open("ab") as file:
        file.write(b'\n{"iter": 7, "loss": NaN}\n\xff\xfe\n{"iter": 6, "lo\n' + b"[" * 5000 + b"\n")
    files = read(tmp_path)
    found = dict(pairs(files.lines["loss"]))
    assert math.isnan(found.pop(1)) and math.isnan(found.pop(7))
    assert found == {2: -math.inf, 3: 2.5}
    assert files.bad_lines == 7  # three values, one without a place, and three that are no JSON
    assert files.run_name == "läufer"


def test_a_line_counts_once_it_is_whole(tmp_path: Path) -> None:
    path = start(tmp_path, "20260101_000000", [trained(1, 1.0)])
    files = RunFiles(tmp_path, {"loss"})
    whole = json.dumps(trained(2, 2.0)) + "\n"
    for end in (10, len(whole) - 1):
        path.write_text(json.dumps(trained(1, 1.0)) + "\n" + whole[:end])
        assert files.read()
        assert pairs(files.lines["loss"]) == [(1, 1.0)]
    with path.open("a") as file:
        file.write("\n")
    files.read()
    assert pairs(files.lines["loss"]) == [(1, 1.0), (2, 2.0)]
    assert files.bad_lines == 0


def test_what_was_read_is_not_read_again(tmp_path: Path) -> None:
    path = tmp_path / "file"
    tail = Tail(path)
    assert list(tail.blocks()) == []
    path.write_bytes(b"a\nb\n" * BLOCK)
    assert sum(len(lines) for lines in tail.blocks()) == 2 * BLOCK
    assert list(tail.blocks()) == []
    path.write_bytes(b"new\n")  # shorter: written anew
    assert list(tail.blocks()) == [[b"new"]]
    path.unlink()
    path.mkdir()
    assert list(tail.blocks()) == []
    assert tail.problem == "Is a directory"


def test_big_files_take_little_memory_and_short_looks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    block, blocks = 1 << 16, 40
    monkeypatch.setattr("inlay.app.runs.tail.BLOCK", block)
    path = start(tmp_path, "20260101_000000", [])
    fill, count = "x" * 200, 0
    with path.open("w") as file:
        while file.tell() < block * blocks:
            count += 1
            file.write(json.dumps(trained(count, 1 / count, fill=fill)) + "\n")
    files = RunFiles(tmp_path, {"loss"}, limit=1000)
    tracemalloc.start()
    looks = 0
    while not files.read(seconds=0.0):
        looks += 1
        assert files.unread()[0] == max(path.stat().st_size - looks * block, 0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert looks == blocks + 1
    assert peak < blocks / 2 * block
    assert 500 <= len(files.lines["loss"].iters) <= 1000
    assert files.last["iter"] == count


def test_a_long_series_keeps_every_second_point(tmp_path: Path) -> None:
    series = Series(limit=10)
    for i in range(100):
        series.add(i, float(i))
    assert list(series.iters) == list(range(0, 100, 16))
    series.cut(40)
    assert pairs(series)[-1] == (32, 32.0)
    assert series.lowest() == (0, 0.0)


def test_the_layout_of_mmengine(tmp_path: Path) -> None:
    """As mmengine 0.10.7 writes it under XTuner 0.1.23: validation without ``iter`` and group."""
    log = "\n".join(
        [
            "2026/11/21 12:54:40 - mmengine - INFO - ",
            "System environment:",
            "2026/11/21 12:54:42 - mmengine - WARNING - Reach the end of the dataloader.",
            "2026/11/21 12:54:42 - mmengine - INFO - Iter(train) [20/34]  lr: 4.6e-04  loss: 5.5",
            "2026/11/21 12:54:43 - mmengine - INFO - resumed epoch: 0, iter: 20",
            "",
        ]
    )
    val = {"data_time": 0.06, "time": 0.1, "loss": 5.25, "step": 20}
    start(tmp_path, "20261121_125440", [trained(10, 6.0, lr=1e-7), trained(20, 5.5), val], log)
    files = read(tmp_path)
    assert pairs(files.lines["loss"]) == [(10, 6.0), (20, 5.5)]
    assert pairs(files.points["val/loss"]) == [(20, 5.25)]
    assert files.newest("val") == {
        "iter": 20,
        "val/loss": 5.25,
        "val/time": 0.1,
        "val/data_time": 0.06,
    }
    said = files.starts[0].log
    assert (said.total_iters, said.resumed_at, said.end) == (34, 20, None)
    assert vars(said.warned) == {
        "time": "11/21 12:54:42",
        "level": "WARNING",
        "text": "Reach the end of the dataloader.",
    }


@pytest.mark.parametrize(
    ("line", "end"),
    [
        ("INFO - finished: all 34 iterations are done", "finished"),
        ("INFO - nothing left to do: all 34 iterations are done", "finished"),
        ("INFO - stopped by SIGTERM at iteration 7", "stopped by SIGTERM"),
        ("ERROR - ended by OutOfMemoryError: CUDA out of memory", "ended by OutOfMemoryError"),
        ("INFO - Sample output: stopped by SIGTERM", None),
        ("DEBUG - finished: all 34 iterations are done", None),
    ],
)
def test_how_a_log_says_that_it_ended(line: str, end: str | None) -> None:
    log = RunLog(Tail(Path("unused")))
    log.take([b"11/21 12:54:40 - inlay - " + line.encode()])
    assert log.end == end


def test_folders_that_are_no_work_dirs_are_named_all_at_once(tmp_path: Path) -> None:
    start(tmp_path / "home" / "run", "20260101_000000", [])
    (tmp_path / "empty").mkdir()
    assert check_work_dirs([str(tmp_path / "home" / "run")] * 2) == [tmp_path / "home" / "run"]
    names = [
        "nowhere",
        "empty",
        "home",
        "home/run/20260101_000000",
        "home/run/20260101_000000/vis_data",
    ]
    with pytest.raises(InlayError) as caught:
        check_work_dirs([str(tmp_path / name) for name in names])
    lines = str(caught.value).splitlines()
    assert len(lines) == 5
    assert lines[0] == f"{tmp_path / 'nowhere'}: there is no such folder"
    assert "expected a folder <timestamp>/vis_data/scalars.json or a .lock in it" in lines[1]
    for line in lines[2:]:
        assert line.endswith(f"Did you mean {tmp_path / 'home' / 'run'}?")


def test_nothing_heavy_is_imported(tmp_path: Path) -> None:
    start(tmp_path, "20260101_000000", [trained(10, 1.0)])
    (tmp_path / "eval_results").mkdir()
    (tmp_path / "eval_results" / "step_10.json").write_text('{"vqa": 0.5}')
    program = (
        "import sys; from inlay.app.runs.watch import as_json, once; import inlay.app.runs.plot\n"
        f"once([{str(tmp_path)!r}]); as_json([{str(tmp_path)!r}])\n"
        "heavy = {'torch', 'transformers', 'PIL', 'numpy', 'matplotlib'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "vqa 0.5" in done.stdout
