"""Asking: what is kept, what is asked again, and what happens to questions that cannot be asked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from inlay.core.errors import DataError, ModelError
from inlay.evaluation.ask import (
    Asking,
    Question,
    Reply,
    Result,
    ask,
    problems,
    replies_of,
)
from inlay.evaluation.records import Records, complete, read_records, run_items


def questions(count: int) -> list[Question]:
    return [
        Question(str(i), f"question {i}", lambda: [Image.new("RGB", (4, 4))]) for i in range(count)
    ]


class Clerk:
    """Answers, remembers what it was asked, and dies at one question."""

    def __init__(self, dies_at: str | None = None) -> None:
        self.asked: list[str] = []
        self.dies_at = dies_at

    def __call__(self, images: list[Image.Image], text: str, max_new_tokens: int) -> str:
        if text == self.dies_at:
            raise KeyboardInterrupt
        self.asked.append(text)
        return f" {text}? ü\n"


class Task:
    max_new_tokens = 10

    def __init__(self, count: int) -> None:
        self.questions = questions(count)

    def score(self, replies: dict[str, Reply]) -> Result:
        return Result({key: reply.text for key, reply in replies.items()}, [])


def run(folder: Path, clerk: Clerk, **options: Any) -> dict[str, str]:
    """Go on with a run of five questions."""
    task = Asking(Task(5), "data", **options)
    run_items(task, task.keys, clerk, Records(folder))
    return task.score(complete(task, read_records(folder))).scores


def test_a_second_run_goes_on(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, Clerk("question 3"))
    second = Clerk()
    scores = run(tmp_path, second)
    assert second.asked == ["question 3", "question 4"]
    assert scores == {str(i): f"question {i}? ü" for i in range(5)}
    third = Clerk()
    assert run(tmp_path, third) == scores and not third.asked


def test_what_is_asked_has_a_name() -> None:
    one, other = Asking(Task(2), "data"), Asking(Task(2), "data", 7)
    assert one.identity != other.identity == Asking(Task(3), "data", 7).identity
    assert (one.max_new_tokens, other.max_new_tokens) == (10, 7)


def test_questions_that_cannot_be_asked(tmp_path: Path) -> None:
    def broken() -> list[Image.Image]:
        raise DataError("no picture here")

    def answer(images: list[Image.Image], text: str, max_new_tokens: int) -> str:
        if text == "question 2":
            raise ModelError("too long")
        return "yes"

    some = [Question("b", "x", broken), *questions(3)]
    seen: list[str] = []
    replies = ask(some, answer, 10, lambda question, reply: seen.append(question.key))
    assert problems(replies) == {"b": "no picture here", "2": "too long"}
    assert replies["b"] == Reply("", "no picture here") and seen == ["b", "0", "1", "2"]
    task = Asking(Task(3), None)
    run_items(task, task.keys, answer, Records(tmp_path))
    rows = read_records(tmp_path)
    assert rows["2"] == {"text": "", "problem": "too long"} and rows["0"] == {"text": "yes"}
    assert replies_of(rows)["2"] == Reply("", "too long"), "it is asked again, see Records"
    with pytest.raises(DataError, match=r"none of 1 questions could be asked.*no picture here"):
        ask(some[:1], answer, 10)


def test_a_fault_of_ours_is_not_hidden() -> None:
    def answer(images: list[Image.Image], text: str, max_new_tokens: int) -> str:
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        ask(questions(1), answer, 10)
