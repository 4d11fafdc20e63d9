"""Runs whose checkpoints are evaluated beside them: on this machine, and by a fake slurm."""

from __future__ import annotations

import json
import re
import signal
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import runs
from fake_slurm import install
from nanovlm_runs import Backbones

from inlay.engine import checkpoint as ckpt
from inlay.evaluation.job_files import read_jobs

SCORE = """
import json, sys, time
step, result = int(sys.argv[1]), sys.argv[2]
time.sleep(0.3)
if step == 8:
    print("the disk of the node is full")
    sys.exit(3)
json.dump({"results": {"accuracy": (step % 10) / 10}}, open(result, "w"))
"""
HOOK = """
from inlay.engine.hooks import EvaluationJobsHook
custom_hooks.append(dict(type=EvaluationJobsHook, **jobs))
default_hooks["checkpoint"].update(save_best="eval/accuracy", rule="greater")
"""


def config(folder: Path, model: Path, **jobs: Any) -> Path:
    """Twelve iterations, saved and evaluated at every fourth; the evaluation of 8 fails."""
    path = runs.write_config(
        folder,
        model,
        max_epochs=3,
        save_steps=4,
        keep=1,
        pack_to_max_length=False,
        batch_size=8,
        accumulative_counts=1,
    )
    (folder / "score.py").write_text(SCORE)
    command = f"{sys.executable} -I -S {folder / 'score.py'} {{step}} {{result}}"
    settings = {"interval": 4, "command": command, **jobs}
    path.write_text(f"{path.read_text()}\njobs = {settings!r}\n{HOOK}")
    return path


def evaluations(work_dir: Path) -> list[dict[str, Any]]:
    return [r for r in runs.scalars(work_dir) if r.get("axis") == "evaluation"]


def check_evaluated(work: Path, text: str) -> None:
    """Each result once over all starts, the failure said, the best kept, one checkpoint left."""
    logged = {record["step"]: record["eval/accuracy"] for record in evaluations(work)}
    assert logged == {4: 0.4, 12: 0.2}
    assert len(evaluations(work)) == 2
    assert "evaluation of step 8 failed" in text
    assert {job.step: job.state for job in read_jobs(work)} == {4: "done", 8: "failed", 12: "done"}
    names = sorted(path.name for path in work.glob("*_iter_*"))
    assert names == ["best_eval_accuracy_iter_4"]
    assert ckpt.damage(work / names[0]) is None
    assert [path.name for path in ckpt.list_checkpoints(work)] == ["iter_12"]


def test_slurm_from_end_to_end(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = install(tmp_path, monkeypatch)
    options = ["--partition=gpu", "--gres=gpu:1"]
    path = config(tmp_path, tiny_model, run_by="slurm", slurm_options=options, ask_every=0.2)
    text = runs.train(path, tmp_path / "w")
    check_evaluated(tmp_path / "w", text)
    assert "slurm: FAILED 3:0: the disk of the node is full" in text
    assert [job.id for job in read_jobs(tmp_path / "w")] == ["101", "102", "103"]
    calls = (fake / "calls").read_text().splitlines()
    assert sum(call.startswith("sbatch --parsable") for call in calls) == 3


@pytest.mark.parametrize("killed", [6, 12])
def test_results_are_logged_once_over_kills(tmp_path: Path, tiny_model: Path, killed: int) -> None:
    path = config(tmp_path, tiny_model)
    words = ["train", path, "--work-dir", tmp_path / "w", "--resume"]
    code, _ = runs.inlay(words, tmp_path, before=runs.stop_at(killed, signal.SIGKILL))
    assert code == -signal.SIGKILL
    text = runs.train(path, tmp_path / "w", "--resume")
    check_evaluated(tmp_path / "w", text)


def test_a_later_start_picks_up_what_came_too_late(tmp_path: Path, tiny_model: Path) -> None:
    path = config(tmp_path, tiny_model, wait=0.0)
    text = runs.train(path, tmp_path / "w")
    assert "not over yet: start the run again" in text
    assert 12 not in {record["step"] for record in evaluations(tmp_path / "w")}
    path.write_text(path.read_text().replace("'wait': 0.0", "'wait': 60.0"))
    text = runs.train(path, tmp_path / "w", "--resume")
    assert "nothing left to do" in text
    assert sorted(r["step"] for r in evaluations(tmp_path / "w")) == [4, 12]
    runs.train(path, tmp_path / "w", "--resume")
    assert len(evaluations(tmp_path / "w")) == 2


def test_what_cannot_be_run_is_said_before_training(tmp_path: Path, tiny_model: Path) -> None:
    path = config(tmp_path, tiny_model, command="evaluate.sh now")
    code, text = runs.inlay(["train", path, "--work-dir", tmp_path / "w"], tmp_path)
    assert code == 1 and "names neither {checkpoint} nor {result}: evaluate.sh now" in text
    path = config(tmp_path, tiny_model, command=None, tasks=["vqua"], data=["rows.json"])
    code, text = runs.inlay(["train", path, "--work-dir", tmp_path / "w"], tmp_path)
    assert code == 1 and "there is no task 'vqua'" in text and "vqa" in text
    assert "custom_hooks" in text and not (tmp_path / "w").exists(), "before anything is loaded"
    code, text = runs.inlay(["check", path], tmp_path)
    assert code == 1 and "there is no task 'vqua'" in text
    path = config(tmp_path, tiny_model, command=5, tasks=7, data=None)
    code, text = runs.inlay(["check", path], tmp_path)
    assert code == 1 and "3 errors" in text and "got 7" in text and "Traceback" not in text


# -- on real photos ------------------------------------------------------------------------------


@pytest.mark.shared
@pytest.mark.long
def test_a_vlm_on_photos_is_judged_while_it_trains(tmp_path: Path, shared_data: Path) -> None:
    """SIGKILL in the middle; `inlay eval` judges each checkpoint; no update waits."""
    photos = shared_data / "images/llava_photos"
    rows = json.loads((shared_data / "images/llava_photos.json").read_text())[:16]
    data = tmp_path / "rows.json"
    data.write_text(json.dumps(rows))
    questions = [
        {"question": "Is there a person?", "answer": "yes", "image": row["image"]}
        for row in rows[:3]
    ]
    (tmp_path / "vqa.json").write_text(json.dumps(questions))
    hook = dict(
        type="EvaluationJobsHook", interval=8, tasks=["vqa"], data=[str(tmp_path / "vqa.json")],
        image_folder=str(photos), options=["--max-new-tokens", "3"], max_jobs=2, nice=5, wait=300,
    )  # fmt: skip
    words = Backbones(tmp_path).train(
        data, tmp_path / "w", "--resume", image_folder=photos, gradient_accumulation_steps=1,
        max_training_steps=16, eval_interval=4, max_img_size=128, custom_hooks=[hook],
        default_hooks__checkpoint__save_best="eval/vqa/accuracy",
    )  # fmt: skip
    code, _ = runs.inlay(words, tmp_path, before=runs.stop_at(11, signal.SIGKILL))
    assert code == -signal.SIGKILL
    child = runs.start(words, tmp_path)
    assert child.wait(300) == 0, child.text
    logged = Counter(record["step"] for record in evaluations(tmp_path / "w"))
    assert logged == {8: 1, 16: 1}, child.text
    for record in evaluations(tmp_path / "w"):
        assert 0 <= record["eval/vqa/accuracy"] <= 1
    stall = re.search(r"longest stall of an update was ([\d.]+) ms", child.text)
    assert stall and float(stall[1]) < 100, child.text
    (best,) = (tmp_path / "w").glob("best_eval_vqa_accuracy_iter_*")
    assert ckpt.damage(best) is None
