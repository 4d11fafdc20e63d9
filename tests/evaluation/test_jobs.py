"""Evaluation jobs: started, watched, read, given up; processes of this machine and a fake slurm."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from fake_slurm import install

from inlay.core.errors import DataError
from inlay.evaluation.job_files import (
    DONE,
    FAILED,
    Outcome,
    logged_results,
    read_jobs,
    read_result,
)
from inlay.evaluation.job_runners import JobError, LocalJobs, clean_environment
from inlay.evaluation.jobs import EvaluationJobs
from inlay.evaluation.slurm import SlurmJobs

GOOD = """
import json, sys
json.dump({"scores": {"vqa": {"accuracy": int(sys.argv[1]) / 100}}}, open(sys.argv[2], "w"))
"""
BAD = "import sys; print('CUDA out of memory'); sys.exit(3)"
SLEEP = "import time; time.sleep(600)"


def command(code: str) -> list[str]:
    return [sys.executable, "-I", "-S", "-c", code, "{step}", "{result}"]


def save(work_dir: Path, step: int, weights: str = "aa") -> str:
    """A checkpoint as far as jobs look at it."""
    folder = work_dir / f"iter_{step}"
    folder.mkdir(parents=True, exist_ok=True)
    files = {"model.safetensors": {"size": 1, "sha256": weights * 8}}
    (folder / "manifest.json").write_text(json.dumps({"files": files}))
    return folder.name


@contextmanager
def tended(work_dir: Path, code: str = GOOD, **settings: Any) -> Iterator[EvaluationJobs]:
    runner, stop = settings.pop("runner", None) or LocalJobs(), settings.pop("stop", True)
    runner.retry_after = 0.0
    words = settings.pop("words", None) or command(code)
    settings = {"say": [].append, "pause": 0.02, **settings}
    jobs = EvaluationJobs(work_dir, runner, words, **settings)
    try:
        yield jobs
    finally:
        jobs.close(stop=stop)


def wait(holds: Callable[[], Any], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "nothing came"
        time.sleep(0.01)


def all_of(jobs: EvaluationJobs) -> list[Outcome]:
    wait(lambda: not jobs.unfinished())
    return sorted(jobs.outcomes, key=lambda outcome: outcome.step)


def test_checkpoints_are_evaluated_and_nobody_waits(tmp_path: Path) -> None:
    with tended(tmp_path) as jobs:
        jobs.start()
        names = [save(tmp_path, step) for step in (10, 20)]
        began = time.perf_counter()
        for step, name in zip((10, 20), names, strict=True):
            jobs.submit(step, name)
        assert time.perf_counter() - began < 0.01
        assert jobs.unfinished() > 0
        found = all_of(jobs)
    assert [(o.step, o.metrics, o.checkpoint) for o in found] == [
        (10, {"eval/vqa/accuracy": 0.1}, "iter_10"),
        (20, {"eval/vqa/accuracy": 0.2}, "iter_20"),
    ]
    assert {o.weights for o in found} == {"aa" * 8}
    assert [(job.step, job.state, job.attempts) for job in read_jobs(tmp_path)] == [
        (10, DONE, 1),
        (20, DONE, 1),
    ]


def test_a_failing_job_says_why_and_is_started_again_by_later_starts_three_times(
    tmp_path: Path,
) -> None:
    name = save(tmp_path, 10)
    for attempt in range(1, 5):
        with tended(tmp_path, BAD) as jobs:
            assert jobs.start() == []
            jobs.submit(10, name)
            (outcome,) = all_of(jobs)
        assert outcome.metrics is None
        assert "exit code 3: CUDA out of memory" in str(outcome.problem)
        (job,) = read_jobs(tmp_path)
        assert (job.state, job.attempts) == (FAILED, min(attempt, 3))


def test_no_more_than_so_many_run_at_once(tmp_path: Path) -> None:
    with tended(tmp_path, SLEEP, runner=LocalJobs(max_jobs=2)) as jobs:
        jobs.start()
        for step in (1, 2, 3, 4):
            jobs.submit(step, save(tmp_path, step))
        wait(lambda: sum(job.state == "running" for job in read_jobs(tmp_path)) == 2)
        time.sleep(0.2)
        states = [job.state for job in read_jobs(tmp_path)]
        assert states == ["running", "running", "waiting", "waiting"]


def test_local_jobs_are_nice_and_have_their_own_threads_and_devices(tmp_path: Path) -> None:
    code = (
        "import json, os, sys; e = os.environ; json.dump({'nice': os.nice(0), 'threads': "
        "int(e['OMP_NUM_THREADS']), 'device': int(e['CUDA_VISIBLE_DEVICES']), 'rank': "
        "int('RANK' in e)}, open(sys.argv[2], 'w'))"
    )
    before = os.nice(0)
    os.environ["RANK"] = "3"
    try:
        with tended(tmp_path, code, runner=LocalJobs(nice=4, threads=3, devices="7")) as jobs:
            jobs.start()
            jobs.submit(1, save(tmp_path, 1))
            (outcome,) = all_of(jobs)
    finally:
        del os.environ["RANK"]
    assert outcome.metrics == {
        "eval/nice": min(before + 4, 19),
        "eval/threads": 3,
        "eval/device": 7,
        "eval/rank": 0,
    }


def test_jobs_are_no_ranks_of_the_training() -> None:
    given = {"RANK": "1", "MASTER_ADDR": "a", "SLURM_JOB_ID": "7", "TORCHELASTIC_RUN_ID": "x"}
    kept = {"PATH": "/bin", "SLURM_CONF": "/etc/slurm.conf", "HF_HOME": "/hf"}
    assert clean_environment(given | kept) == kept


def test_a_frozen_job_is_ended_at_its_time_limit(tmp_path: Path) -> None:
    with tended(tmp_path, SLEEP, time_limit=0.3) as jobs:
        jobs.start()
        jobs.submit(5, save(tmp_path, 5))
        (outcome,) = all_of(jobs)
        assert "time limit" in str(outcome.problem)
    (job,) = read_jobs(tmp_path)
    assert job.state == FAILED
    number = int(str(job.id).partition("@")[0])
    wait(lambda: not psutil.pid_exists(number) or psutil.Process(number).status() == "zombie")


def test_a_job_that_outlives_its_run_is_taken_over(tmp_path: Path) -> None:
    go = tmp_path / "go"
    code = f"import os, time\nwhile not os.path.exists({str(go)!r}): time.sleep(0.01)\n{GOOD}"
    with tended(tmp_path, code, stop=False) as first:
        first.start()
        first.submit(10, save(tmp_path, 10))
        wait(lambda: any(job.state == "running" for job in read_jobs(tmp_path)))
    (running,) = read_jobs(tmp_path)
    with tended(tmp_path, code) as second:
        (open_,) = second.start()
        assert open_.id == running.id
        time.sleep(0.1)
        assert second.unfinished() == 1
        go.touch()
        (outcome,) = all_of(second)
    assert outcome.metrics == {"eval/vqa/accuracy": 0.1}
    (job,) = read_jobs(tmp_path)
    assert (job.state, job.attempts) == (DONE, 1)


@pytest.mark.parametrize("stop", [True, False], ids=["ended with the run", "killed with it"])
def test_a_job_that_ends_with_its_run_is_started_again(tmp_path: Path, stop: bool) -> None:
    with tended(tmp_path, SLEEP, stop=stop) as first:
        first.start()
        first.submit(10, save(tmp_path, 10))
        wait(lambda: any(job.state == "running" for job in read_jobs(tmp_path)))
    if not stop:
        (job,) = read_jobs(tmp_path)
        psutil.Process(int(str(job.id).partition("@")[0])).kill()
    with tended(tmp_path) as second:
        (open_,) = second.start()
        assert open_.step == 10
        (outcome,) = all_of(second)
    assert outcome.metrics == {"eval/vqa/accuracy": 0.1}
    (job,) = read_jobs(tmp_path)
    assert (job.state, job.attempts) == (DONE, 1 if stop else 2)


def test_a_step_is_evaluated_again_only_for_other_weights(tmp_path: Path) -> None:
    count = (
        "import sys, os; p = sys.argv[2] + '.n'; open(p, 'a').write('x'); n = os.stat(p).st_size\n"
    )
    code = count + "import json; json.dump({'runs': n}, open(sys.argv[2], 'w'))"
    with tended(tmp_path, code) as jobs:
        jobs.start()
        for weights, runs in (("aa", 1), ("aa", 1), ("bb", 2)):
            jobs.submit(10, save(tmp_path, 10, weights))
            (outcome,) = all_of(jobs)
            assert (outcome.weights, outcome.metrics) == (weights * 8, {"eval/runs": runs})
            jobs.outcomes.clear()
    with tended(tmp_path, code) as later:
        later.start()  # reported again: the caller knows what it has logged
        (outcome,) = all_of(later)
        assert outcome.metrics == {"eval/runs": 2}


def test_files_of_others_are_read_when_they_are_whole(tmp_path: Path) -> None:
    said: list[str] = []
    with tended(tmp_path, say=said.append) as jobs:
        jobs.start()
        path = tmp_path / "eval_results/step_40.json"
        path.write_text('{"global_step": 40, "results": {"mmstar_average": 0.')
        wait(lambda: said)
        assert "step_40.json" in said[0] and not jobs.outcomes
        path.write_text('{"global_step": 40, "results": {"mmstar_average": 0.35}}')
        wait(lambda: jobs.outcomes)
        time.sleep(0.2)
    assert list(jobs.outcomes) == [Outcome(40, metrics={"eval/mmstar_average": 0.35})]
    assert len(said) == 1


@pytest.mark.parametrize("text", ["{", "[1", '{"scores": {}}', '{"a": NaN}', '"words"', ""])
def test_a_result_without_numbers_is_a_failed_job(tmp_path: Path, text: str) -> None:
    with tended(tmp_path, f"import sys; open(sys.argv[2], 'w').write({text!r})") as jobs:
        jobs.start()
        jobs.submit(1, save(tmp_path, 1))
        (outcome,) = all_of(jobs)
    assert outcome.metrics is None and "step_1.json" in str(outcome.problem)


def test_a_result_is_read_with_its_names(tmp_path: Path) -> None:
    scores = {"vqa": {"accuracy": 0.5, "num_questions": 4, "left_out": ["a"], "ok": True}}
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"scores": scores, "rows": {"vqa": [{"n": 1}]}}))
    nested = {"eval/vqa/accuracy": 0.5, "eval/vqa/num_questions": 4}
    assert read_result(path) == nested
    flat = {"vqa/accuracy": 0.5, "lm:hellaswag/acc": 0.25}
    path.write_text(json.dumps({"model": {"model": "m"}, "results": flat, "scores": scores}))
    assert read_result(path) == {"eval/vqa/accuracy": 0.5, "eval/lm:hellaswag/acc": 0.25}
    with pytest.raises(DataError, match="cannot be read"):
        read_result(tmp_path / "b.json")


def test_what_was_logged_stands_in_scalars(tmp_path: Path) -> None:
    first, second = tmp_path / "1/vis_data/scalars.json", tmp_path / "2/vis_data/scalars.json"
    for path in (first, second):
        path.parent.mkdir(parents=True)
    first.write_text('{"step": 3, "loss": 1}\n{"step": 2, "eval/a": 1, "eval_weights": "aa"}\n')
    second.write_text(
        '{"step": 4, "eval/a": 1, "eval_weights": "bb"}\n{"step": 6, "eval_weights": "c'
    )
    assert logged_results(tmp_path) == {"2": "aa", "4": "bb"}


def test_a_command_may_hand_on_to_others(tmp_path: Path) -> None:
    words = [sys.executable, "-I", "-S", "-c", "print('queued')", "{checkpoint}", "{work_dir}"]
    with tended(tmp_path, words=words, hands_on=True, time_limit=30) as jobs:
        jobs.start()
        jobs.submit(8, save(tmp_path, 8))
        wait(lambda: any(job.state == "running" and job.id is None for job in read_jobs(tmp_path)))
        path = tmp_path / "eval_results/step_8.json"
        path.write_text('{"results": {"a": 1')
        time.sleep(0.2)
        assert jobs.unfinished() == 1 and not jobs.outcomes
        path.write_text('{"results": {"a": 1}}')
        (outcome,) = all_of(jobs)
    assert outcome.metrics == {"eval/a": 1}


# -- slurm ---------------------------------------------------------------------------------------


@pytest.fixture
def fake_slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return install(tmp_path, monkeypatch)


def test_slurm_runs_the_jobs_and_one_fails(tmp_path: Path, fake_slurm: Path) -> None:
    code = f"import sys\nif sys.argv[1] == '20': print('no space left'); sys.exit(3)\n{GOOD}"
    work = tmp_path / "runs of today"
    slurm = SlurmJobs(["--gres=gpu:1"], ["export SETUP=done"], time_limit=5400, ask_every=0.1)
    with tended(work, code, runner=slurm) as jobs:
        jobs.start()
        for step in (10, 20, 30):
            jobs.submit(step, save(work, step))
        found = all_of(jobs)
    assert [o.metrics for o in found] == [
        {"eval/vqa/accuracy": 0.1},
        None,
        {"eval/vqa/accuracy": 0.3},
    ]
    assert "slurm: FAILED 3:0: no space left" in str(found[1].problem)
    assert [(job.id, job.state) for job in read_jobs(work)] == [
        ("101", DONE),
        ("102", FAILED),
        ("103", DONE),
    ]
    script = (work / "eval_results/step_10.sbatch").read_text().splitlines()
    assert script[:6] == [
        "#!/bin/bash",
        "#SBATCH --job-name=inlay-eval-10",
        f'#SBATCH --output="{work}/eval_results/step_10.log"',
        "#SBATCH --time=90:00",
        "#SBATCH --gres=gpu:1",
        "set -e",
    ]
    assert "export SETUP=done" in script
    calls = (fake_slurm / "calls").read_text().splitlines()
    assert sum("--test-only" in call for call in calls) == 1
    asked = [call for call in calls if call.startswith("squeue")]
    assert any("101,102" in call for call in asked)  # about all jobs at once


def test_a_script_that_slurm_refuses_is_never_submitted(tmp_path: Path, fake_slurm: Path) -> None:
    with tended(tmp_path, runner=SlurmJobs(ask_every=0.05)) as jobs:
        jobs.start()
        jobs.submit(1, save(tmp_path, 1))
        (outcome,) = all_of(jobs)
    assert "no GPU asked for" in str(outcome.problem)
    assert "--parsable" not in (fake_slurm / "calls").read_text()


def test_slurm_that_is_not_there_or_does_not_answer(
    tmp_path: Path, fake_slurm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slurm = SlurmJobs(["--gres=gpu:1"], ["if true"])
    with pytest.raises(JobError, match="syntax error"):
        slurm.start(["true"], tmp_path / "a.log", "a")
    (fake_slurm / "squeue").write_text("#!/bin/sh\nsleep 60\n")
    slurm.patience = 0.2
    with pytest.raises(JobError, match="squeue did not answer"):
        slurm.ended(["7"])
    assert slurm.ended(["7"]) == {}  # not asked again before its time
    (fake_slurm / "sbatch").unlink()
    with pytest.raises(JobError, match="there is no sbatch here"):
        SlurmJobs().start(["true"], tmp_path / "b.log", "b")
