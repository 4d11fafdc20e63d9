"""The adapter to lmms-eval, against the parts of its interface that it uses."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from evaluation.tables import COLOURS, colour_of
from PIL import Image

from inlay.core.errors import ConfigError, ModelError
from inlay.evaluation.lmms import TASKS, check_tasks, run_tasks
from inlay.evaluation.records import Records, read_records

ROWS = [
    {"colour": "red", "options": ["red", "blue"]},
    {"colour": "blue", "options": ["red", "blue"]},
]


class Base:
    """``lmms_eval.api.model.lmms``: what the evaluator fills in, and what a model must have."""

    def __init__(self) -> None:
        self._rank, self._world_size = 0, 1
        self.task_dict: dict[str, Any] = {}


class GenerationResult:
    def __init__(self, text: Any) -> None:
        self.text = text


def visual(row: dict[str, Any]) -> list[Image.Image]:
    return [Image.new("RGBA", (8, 8), (*COLOURS[row["colour"]], 255))]


def evaluator(model: Any, tasks: list[str], limit: int | None, **kwargs: Any) -> dict[str, Any]:
    """``simple_evaluate`` in small: one task of answers, one of likelihoods."""
    rows = ROWS[:limit]
    model.task_dict = {name: {"test": rows} for name in tasks}
    results: dict[str, Any] = {}
    if "says" in tasks:
        settings = {"max_new_tokens": 7, "until": ["\n\n"]}
        args = [("Which?", dict(settings), visual, i, "says", "test") for i in range(len(rows))]
        said = model.generate_until([SimpleNamespace(args=a) for a in args])
        hits = [s == row["colour"] for s, row in zip(said, rows, strict=True)]
        results["says"] = {"exact_match,none": sum(hits) / len(hits), "alias": "says"}
    if "likes" in tasks:
        hits = []
        for i, row in enumerate(rows):
            args = [("Which?", f" {x}", visual, i, "likes", "test") for x in row["options"]]
            out = model.loglikelihood([SimpleNamespace(args=a) for a in args])
            losses = [result.text[0] for result in out]  # a plain pair would become a text
            hits.append(row["options"][losses.index(min(losses))] == row["colour"])
        results["likes"] = {"acc,none": sum(hits) / len(hits)}
    return {"results": results}


@pytest.fixture
def lmms_eval(monkeypatch: pytest.MonkeyPatch) -> None:
    modules = {name: ModuleType(name) for name in ("lmms_eval", "lmms_eval.api")}
    modules["lmms_eval.api.model"] = model = ModuleType("lmms_eval.api.model")
    modules["lmms_eval.api.instance"] = instance = ModuleType("lmms_eval.api.instance")
    modules["lmms_eval.tasks"] = tasks = ModuleType("lmms_eval.tasks")
    tasks.TaskManager = lambda: SimpleNamespace(all_tasks=[*TASKS, "mmstar_cot"])  # type: ignore[attr-defined]
    modules["lmms_eval.evaluator"] = loop = ModuleType("lmms_eval.evaluator")
    model.lmms, instance.GenerationResult, loop.simple_evaluate = Base, GenerationResult, evaluator
    modules["lmms_eval.api"].instance = instance
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)


def answer(images: list[Image.Image], text: str, max_new_tokens: int) -> str:
    assert (text, max_new_tokens) == ("Which?", 7) and images[0].mode == "RGB"
    return f"{colour_of(images[0])} \n\nand more"


def score(images: list[Image.Image], text: str, continuation: str) -> tuple[float, bool]:
    is_right = continuation == f" {colour_of(images[0])}"
    return (0.5 if is_right else 3.0), is_right


EXPECTED = {"says": {"exact_match": 1.0}, "likes": {"acc": 1.0}}


def test_answers_and_likelihoods(lmms_eval: None, tmp_path: Path) -> None:
    assert run_tasks(["says", "likes"], answer, score, Records(tmp_path)) == EXPECTED


def test_what_is_answered_is_not_asked_again(lmms_eval: None, tmp_path: Path) -> None:
    def dies(images: list[Image.Image], text: str, continuation: str) -> tuple[float, bool]:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_tasks(["says", "likes"], answer, dies, Records(tmp_path))
    assert len(read_records(tmp_path)) == 2, "the answers to both questions"

    def never(*_: Any) -> str:
        raise AssertionError("asked again")

    assert run_tasks(["says", "likes"], never, score, Records(tmp_path)) == EXPECTED
    assert run_tasks(["says", "likes"], never, never, Records(tmp_path)) == EXPECTED


def test_a_question_that_cannot_be_asked(lmms_eval: None, tmp_path: Path) -> None:
    def refuses(images: list[Image.Image], text: str, max_new_tokens: int) -> str:
        raise ModelError("too long")

    results = run_tasks(["says"], refuses, score, Records(tmp_path), limit=1)
    assert results["says"]["exact_match"] == 0
    (row,) = read_records(tmp_path).values()
    assert row == {"problem": "says, question 0: too long", "task": "says"}
    results = run_tasks(["says"], answer, score, Records(tmp_path), limit=1)
    assert results["says"]["exact_match"] == 1, "it is asked again"


def test_a_video_is_refused(
    lmms_eval: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules[__name__], "visual", lambda row: ["film.mp4"])
    with pytest.raises(ModelError, match="expected pictures, found str"):
        run_tasks(["says"], answer, score, Records(tmp_path))


def test_names(lmms_eval: None) -> None:
    check_tasks(TASKS)
    with pytest.raises(ConfigError, match=r"no task 'mmstr'. Did you mean 'mmstar'\?.*chartqa"):
        check_tasks(["mme", "mmstr"])


def test_without_lmms_eval(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lmms_eval", None)
    monkeypatch.setitem(sys.modules, "lmms_eval.tasks", None)
    with pytest.raises(ConfigError, match=r"lmms:mmstar needs lmms-eval .*inlay\[lmms\]"):
        check_tasks(["mmstar"])
    with pytest.raises(ConfigError, match=r"inlay\[lmms\]'\. Did you mean 'mmmu_val'"):
        check_tasks(["mmmu_vall"])
