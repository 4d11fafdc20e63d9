"""Questions to a model: what a task is, and how it is put to one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
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


class Asking:
    """The questions of a task as items that can be broken off and shared (see ``records``).

    Args:
        task: questions and their scores.
        identity: JSON values that change with what is asked under the same key.
        max_new_tokens: longest answer; None: what the task needs.

    Attributes:
        keys: of the questions, in the order of the data.
    """

    def __init__(self, task: Task, identity: Any, max_new_tokens: int | None = None) -> None:
        self.task = task
        self.max_new_tokens = max_new_tokens or task.max_new_tokens
        self.identity: Any = [identity, self.max_new_tokens]
        self._questions = {question.key: question for question in task.questions}
        self.keys: Sequence[str] = list(self._questions)

    def run(self, key: str, model: Answer) -> dict[str, Any]:
        """Return the model's ``text``; with ``problem`` where it could not be asked."""
        reply = _ask(self._questions[key], model, self.max_new_tokens)
        return {"text": reply.text, **({"problem": reply.problem} if reply.problem else {})}

    def score(self, rows: Mapping[str, Mapping[str, Any]]) -> Result:
        """Score what ``run`` returned for every key."""
        return self.task.score(replies_of(rows))


def replies_of(rows: Mapping[str, Mapping[str, Any]]) -> dict[str, Reply]:
    """Return rows of ``Asking.run`` as replies."""
    return {key: Reply(row["text"], row.get("problem")) for key, row in rows.items()}


def ask(
    questions: Iterable[Question],
    answer: Answer,
    max_new_tokens: int,
    on_reply: Callable[[Question, Reply], None] | None = None,
) -> dict[str, Reply]:
    """Ask all questions in order, in this process, and keep nothing on disk.

    A question whose picture is broken, or that the model cannot read (it is too long), has a reply
    with a ``problem``.

    Args:
        on_reply: called with every reply.

    Raises:
        DataError: not one question could be asked.
    """
    replies: dict[str, Reply] = {}
    for question in questions:
        reply = replies[question.key] = _ask(question, answer, max_new_tokens)
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
