"""``inlay plot``: pictures of real runs and of odd ones."""

from __future__ import annotations

import json
import math
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
import runs

from inlay.app.runs.plot import COLOURS, plot, smoothed
from inlay.core.errors import InlayError


def write_run(work_dir: Path, losses: list[Any], **more: Any) -> Path:
    folder = work_dir / "20260101_000000" / "vis_data"
    folder.mkdir(parents=True)
    lines = [
        json.dumps({"iter": i, "loss": loss, "time": 1.0, "step": i, **more}) + "\n"
        for i, loss in enumerate(losses, 1)
    ]
    (folder / "scalars.json").write_text("".join(lines))
    return work_dir


def pixels(path: Path) -> Any:
    import numpy
    from PIL import Image

    with Image.open(path) as image:
        return numpy.asarray(image.convert("RGB")).astype(int)


def colours(path: Path) -> set[str]:
    """Which colours of the palette are in a picture."""
    shown = {tuple(colour) for row in pixels(path) for colour in row}
    return {c for c in COLOURS if tuple(int(c[i : i + 2], 16) for i in (1, 3, 5)) in shown}


def test_a_resumed_run_looks_like_one_that_was_never_stopped(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = runs.write_config(tmp_path, tiny_model, save_steps=5, val_fraction=0.2)
    whole, killed = tmp_path / "a" / "run", tmp_path / "b" / "run"
    runs.train(config, whole)
    words = ["train", config, "--work-dir", killed]
    code, text = runs.inlay(words, tmp_path, runs.stop_at(13, signal.SIGKILL))
    assert code == -signal.SIGKILL, text
    runs.train(config, killed, "--resume")
    for folder in (whole, killed):
        monkeypatch.chdir(folder.parent)
        for x in ("iter", "tokens"):
            assert plot(["run"], f"{x}.png", ["loss", "lr"], x, smooth=0.5) == []
    for x in ("iter", "tokens"):
        first, second = (pixels(folder.parent / f"{x}.png") for folder in (whole, killed))
        assert first.shape == second.shape and (first == second).all()
        assert (first != 255).any(axis=2).mean() > 0.02  # something is drawn
    assert (pixels(whole.parent / "iter.png") != pixels(whole.parent / "tokens.png")).any()
    assert plot(["run"], "time.png", x="time") == [] and Path("time.png").is_file()


def test_each_run_has_its_colour_and_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    names = [
        str(write_run(Path(name), [5.0, 4.0 + i / 10, 3.0 - i / 10]))
        for i, name in enumerate(["läufer", "b", "_hidden", "cost $1 and $2", "e\x1b[2J", "f"])
    ]
    assert plot(names, "deep/out.png", ["loss"]) == []
    assert colours(Path("deep/out.png")) >= set(COLOURS[:6])
    plot(names, "out.svg", ["loss"])
    text = Path("out.svg").read_text()
    for name in ("läufer", "_hidden", "cost $1 and $2"):
        assert f"{name} -->" in text
    assert "\x1b" not in text


def test_evaluations_are_points_and_lost_values_are_marked(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", [5.0, "nan", 4.0, "inf", 3.0])
    scalars = run / "20260101_000000" / "vis_data" / "scalars.json"
    plot([str(run)], str(tmp_path / "before.png"), ["loss"])
    for step in (3, 1, 5):  # as jobs end
        line = {"step": step, "axis": "evaluation", "eval/vqa/accuracy": step / 10}
        with scalars.open("a") as file:
            file.write(json.dumps(line) + "\n")
    with scalars.open("a") as file:
        file.write(json.dumps({"iter": 3, "step": 3, "val/loss": 4.5}) + '\n{"iter": 6, "lo')
    plot([str(run)], str(tmp_path / "after.png"), ["loss"])
    assert (pixels(tmp_path / "before.png") != pixels(tmp_path / "after.png")).any()
    assert plot([str(run)], str(tmp_path / "usual.svg")) == []
    text = (tmp_path / "usual.svg").read_text()
    assert "<!-- eval/vqa/accuracy -->" in text and "<!-- val/loss -->" in text


def test_the_smooth_mean_is_unbiased_at_its_beginning() -> None:
    assert smoothed([4.0, 4.0, 4.0], 0.9) == pytest.approx([4.0, 4.0, 4.0])
    assert smoothed([1.0, 2.0], 0.5) == pytest.approx([1.0, (1.0 * 0.25 + 2.0 * 0.5) / 0.75])
    found = smoothed([1.0, math.nan, 2.0], 0.5)
    assert math.isnan(found[1]) and found[2] == pytest.approx(smoothed([1.0, 2.0], 0.5)[1])
    assert smoothed([3.0, 1.0], 0.0) == [3.0, 1.0]


def test_what_cannot_be_drawn_is_said_in_words(tmp_path: Path) -> None:
    run, other = write_run(tmp_path / "run", [2.0, 1.0], lr=0.1), write_run(tmp_path / "o", [1.0])
    out = str(tmp_path / "out.png")
    with pytest.raises(InlayError) as caught:
        plot([str(run)], out, ["los", "loss", "speed"], x="tokens")
    text = str(caught.value)
    assert "called 'los'. Did you mean 'loss'?" in text and "called 'speed'" in text
    assert "--x tokens" in text and "Known: loss, lr, time" in text
    assert plot([str(run), str(other)], out, ["loss", "lr"]) == [f"'lr' is missing in {other}"]
    with pytest.raises(InlayError, match=r"Take \.png, \.svg or \.pdf"):
        plot([str(run)], str(tmp_path / "out.txt"))
    with pytest.raises(InlayError, match="cannot be written"):
        plot([str(run)], str(run / "20260101_000000" / "vis_data" / "scalars.json" / "out.png"))
    with pytest.raises(InlayError, match="'loss'"):
        plot([str(write_run(tmp_path / "none", []))], out)


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, out = write_run(tmp_path / "run", [2.0, 1.0]), tmp_path / "out.png"
    code, text = runs.inlay(["plot", run, "-o", out, "--smooth"], tmp_path)
    assert (code, text) == (0, f"{out}\n") and out.stat().st_size > 10_000
    code, text = runs.inlay(["plot", run, tmp_path, "-o", out], tmp_path)
    assert code == 1 and f"Did you mean {run}?" in text
    code, text = runs.inlay(["plot", run, "-o", out, "--smooth", "1"], tmp_path)
    assert code == 1 and "below 1" in text
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(InlayError, match=r"pip install 'inlay\[plot\]'"):
        plot([str(run)], str(out))
