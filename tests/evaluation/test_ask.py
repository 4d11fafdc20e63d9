"""Asking: what is kept, what is asked again, and what happens to questions that cannot be asked."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from inlay.core.errors import DataError, ModelError
from inlay.evaluation.ask import AnswerFile, Question, Reply, ask, problems


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


def test_a_second_run_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "new" / "answers.jsonl"
    with pytest.raises(KeyboardInterrupt):
        ask(questions(5), Clerk("question 3"), 10, AnswerFile(path))
    second = Clerk()
    replies = ask(questions(5), second, 10, AnswerFile(path))
    assert second.asked == ["question 3", "question 4"]
    assert {k: r.text for k, r in replies.items()} == {str(i): f"question {i}? ü" for i in range(5)}
    third = Clerk()
    assert ask(questions(5), third, 10, AnswerFile(path)) == replies and not third.asked


def test_a_line_that_a_kill_cut_short_is_asked_again(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    ask(questions(3), Clerk(), 10, AnswerFile(path))
    whole = path.read_bytes()
    path.write_bytes(whole[:-7])
    clerk = Clerk()
    ask(questions(3), clerk, 10, AnswerFile(path))
    assert clerk.asked == ["question 2"] and path.read_bytes() == whole


@pytest.mark.parametrize("line", ["not JSON", '{"key": "1"}', "[1]"])
def test_a_line_that_is_no_answer(tmp_path: Path, line: str) -> None:
    path = tmp_path / "answers.jsonl"
    path.write_text('{"key": "0", "text": "x"}\n' + line + "\n")
    with pytest.raises(DataError, match="line 2: expected"):
        AnswerFile(path)


def test_questions_that_cannot_be_asked(tmp_path: Path) -> None:
    def broken() -> list[Image.Image]:
        raise DataError("no picture here")

    def answer(images: list[Image.Image], text: str, max_new_tokens: int) -> str:
        if text == "question 2":
            raise ModelError("too long")
        return "yes"

    some = [Question("b", "x", broken), *questions(3)]
    kept = AnswerFile(tmp_path / "answers.jsonl")
    seen: list[str] = []
    replies = ask(some, answer, 10, kept, lambda question, reply: seen.append(question.key))
    assert problems(replies) == {"b": "no picture here", "2": "too long"}
    assert replies["b"] == Reply("", "no picture here") and seen == ["b", "0", "1", "2"]
    assert set(AnswerFile(kept.path).texts) == {"0", "1"}, "the others are asked again"
    with pytest.raises(DataError, match=r"none of 1 questions could be asked.*no picture here"):
        ask(some[:1], answer, 10)


def test_a_fault_of_ours_is_not_hidden() -> None:
    def answer(images: list[Image.Image], text: str, max_new_tokens: int) -> str:
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        ask(questions(1), answer, 10)
