"""Put the questions of a task to a model, and keep the answers where a second run finds them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from inlay.core.errors import DataError, InlayError

if TYPE_CHECKING:
    from PIL.Image import Image

Answer = Callable[[list["Image"], str, int], str]
"""``answer(pictures, text, max_new_tokens)``: RGB pictures and a question to the answer's text."""


@dataclass(slots=True)
class Question:
    """One question to a model.

    Attributes:
        key: its name in the task, unique.
        text: what the model reads beside the pictures.
        pictures: opens its pictures as RGB, in order; raises ``DataError`` where one is broken.
    """

    key: str
    text: str
    pictures: Callable[[], list[Image]]


@dataclass(slots=True)
class Reply:
    """What a model said, or why it could not be asked: then ``text`` is empty."""

    text: str
    problem: str | None = None


@dataclass(slots=True)
class Result:
    """What a task found.

    Attributes:
        scores: JSON values; every share is in [0, 1].
        rows: one dict a question: what was asked, what was said, what was right, ``score``.
        tables: title -> line -> column -> share, for people.
    """

    scores: dict[str, Any]
    rows: list[dict[str, Any]]
    tables: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)


class Task(Protocol):
    """Questions, and how their replies are scored.

    Attributes:
        questions: in the order of the data.
        max_new_tokens: longest answer that the task needs.
    """

    questions: Sequence[Question]
    max_new_tokens: int

    def score(self, replies: dict[str, Reply]) -> Result:
        """Score replies, by the questions' keys."""
        ...


class AnswerFile:
    """Answers on disk, one JSON line each, appended as they come.

    Args:
        path: the file; made with its folders at the first answer. A last line that a kill cut
            short is removed.

    Attributes:
        texts: answers by key, those of earlier runs included.

    Raises:
        DataError: a line that is not an answer.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.texts: dict[str, str] = {}
        if not path.is_file():
            return
        data = path.read_bytes()
        whole = data[: data.rfind(b"\n") + 1]
        for number, line in enumerate(whole.splitlines(), 1):
            try:
                row = json.loads(line)
                self.texts[row["key"]] = row["text"]
            except (ValueError, KeyError, TypeError) as error:
                raise DataError(
                    f'{path}, line {number}: expected {{"key": ..., "text": ...}}, found '
                    f"{line[:80]!r}. Remove the file to ask everything again"
                ) from error
        if len(whole) < len(data):
            path.write_bytes(whole)

    def add(self, key: str, text: str) -> None:
        """Keep an answer; it is in the file when this returns."""
        self.texts[key] = text
        self.path.parent.mkdir(parents=True, exist_ok=True)
        line = json.dumps({"key": key, "text": text}, ensure_ascii=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")


def ask(
    questions: Iterable[Question],
    answer: Answer,
    max_new_tokens: int,
    kept: AnswerFile | None = None,
    on_reply: Callable[[Question, Reply], None] | None = None,
) -> dict[str, Reply]:
    """Ask all questions in order.

    A question whose picture is broken, or that the model cannot read (it is too long), has a reply
    with a ``problem``; it is asked again in a later run.

    Args:
        kept: answers that need not be asked for again; new ones are added.
        on_reply: called with every reply, those from ``kept`` included.

    Raises:
        DataError: not one question could be asked.
    """
    replies: dict[str, Reply] = {}
    for question in questions:
        if kept is not None and question.key in kept.texts:
            reply = Reply(kept.texts[question.key])
        else:
            reply = _ask(question, answer, max_new_tokens)
            if kept is not None and reply.problem is None:
                kept.add(question.key, reply.text)
        replies[question.key] = reply
        if on_reply is not None:
            on_reply(question, reply)
    first = next(iter(replies.values()), None)
    if first is not None and all(reply.problem for reply in replies.values()):
        raise DataError(
            f"none of {len(replies)} questions could be asked. The first: {first.problem}"
        )
    return replies


def _ask(question: Question, answer: Answer, max_new_tokens: int) -> Reply:
    try:
        return Reply(answer(question.pictures(), question.text, max_new_tokens).strip())
    except InlayError as error:
        return Reply("", str(error))


def problems(replies: Mapping[str, Reply]) -> dict[str, str]:
    """Return why questions could not be asked, by key."""
    return {key: reply.problem for key, reply in replies.items() if reply.problem}
