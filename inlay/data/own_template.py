"""Conversations as tokens under the tokenizer's own chat template.

The template renders the whole conversation; every answer is found in that text and cut out
together with the token that ends it, so that it is tokenised, trained and prompted for at exactly
one place. Rendering is slow, so per sequence of roles the text between the contents is learned
once (a *skeleton*), tried on other contents, and filled in from then on.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from inlay.core.errors import DataError
from inlay.core.io import fingerprint
from inlay.core.types import Message
from inlay.data.answers import Answer, AnswerFinder
from inlay.data.template_triggers import Triggers, find_triggers
from inlay.data.tokens import BatchTokenizer, Piece

# Private-use characters: no template and no text has them.
_MARK = "\ue0a1{}\ue0a2"
_MARKS = re.compile("\ue0a1(\\d+)\ue0a2")

Trim = Callable[[str], str]
_TRIMS: tuple[Trim, ...] = (str, str.strip, str.rstrip, str.lstrip)


class Segment(NamedTuple):
    """A piece of a skeleton: texts and indices of messages in turn; ``answer`` names the message
    whose answer it is."""

    parts: list[str | int]
    answer: int | None


@dataclass
class Skeleton:
    """What a template writes around the contents of one sequence of roles.

    Attributes:
        segments: the pieces in order.
        trims: what the template does to white space around the contents of a role; None if that
            could not be found out.
    """

    segments: list[Segment]
    trims: dict[str, Trim] | None


class OwnTemplate:
    """Cuts conversations into pieces under the tokenizer's own chat template.

    Args:
        tokenize: the tokenizer. It need not have a chat template before a conversation comes:
            plain documents do without.
    """

    stop_words: list[str] = []

    def __init__(self, tokenize: BatchTokenizer) -> None:
        self._tokenize = tokenize
        self._tokenizer = tokenize.tokenizer
        self._finder = AnswerFinder(tokenize.tokenizer)
        self._added: list[str] = list(tokenize.tokenizer.get_added_vocab())
        self._triggers: Triggers | None = find_triggers(self._finder.source)
        self._skeletons: dict[tuple[str, ...], Skeleton | None] = {}

    def check(self) -> None:
        """Make sure that the template can be trained.

        Raises:
            ConfigError: there is no chat template, it does not render a question and an answer, or
                it writes no stop token after the answer.
        """
        self._finder.end_of_turn()

    @property
    def stop_token_ids(self) -> list[int]:
        """The token that ends an answer, and EOS."""
        token = self._tokenizer.convert_tokens_to_ids(self._finder.end_of_turn()[1])
        eos = self._tokenizer.eos_token_id
        return list(dict.fromkeys([token] if eos is None else [token, eos]))

    def identity(self) -> str:
        """Fingerprint of the template and the special tokens that it may write."""
        special = {k: str(v) for k, v in self._tokenizer.special_tokens_map.items()}
        return fingerprint([self._finder.source, special])

    def pieces(self, messages: Sequence[Message]) -> list[Piece]:
        """Cut a conversation up to its last answer.

        Raises:
            DataError: the template refuses the conversation, or an answer is not found in its text.
        """
        last = max(i for i, m in enumerate(messages) if m.role == "assistant")
        messages = messages[: last + 1]
        skeleton = self._skeleton(tuple([m.role for m in messages]))
        contents = self._plain_contents(messages, skeleton) if skeleton else None
        if skeleton is None or contents is None:
            text, answers = self._finder.answers(messages)
            return self._cut(text, answers, messages)
        pieces: list[Piece] = []
        for parts, answer in skeleton.segments:
            trained = answer is not None and messages[answer].trained
            text = "".join([p if isinstance(p, str) else contents[p] for p in parts])
            after = self._after(pieces)
            if len(parts) == 1 and isinstance(parts[0], str):
                constant = self._tokenize.constant(text, after)
                pieces.append(Piece(text, trained, constant))
            else:
                pieces.append(Piece(text, trained, None, after))
        return pieces

    def prompt(self, messages: Sequence[Message]) -> list[Piece]:
        """Cut a conversation up to where training saw the next answer begin.

        Raises:
            DataError: no message, or the template refuses the conversation.
        """
        if not messages or messages[-1].role == "assistant":
            raise DataError("a prompt must end with a user message")
        self.check()
        messages = [*messages, Message("assistant", _MARK.format(0))]
        text, answers = self._finder.answers(messages)
        start = answers[-1].start
        return self._cut(text[:start], answers[:-1], messages)

    def _cut(self, text: str, answers: list[Answer], messages: Sequence[Message]) -> list[Piece]:
        trained = [m.trained for m in messages if m.role == "assistant"]
        pieces: list[Piece] = []

        def add(begin: int, end: int, is_trained: bool) -> None:
            if end > begin:
                pieces.append(Piece(text[begin:end], is_trained, None, self._after(pieces)))

        position = 0
        for answer, is_trained in zip(answers, trained, strict=False):
            add(position, answer.start, False)
            add(answer.start, answer.stop, is_trained)
            position = answer.stop
        add(position, len(text), False)
        return pieces

    def _after(self, pieces: list[Piece]) -> str:
        """What the next piece is tokenised behind, for tokenizers that mark the start of a text."""
        if not pieces or not self._tokenize.adds_prefix:
            return ""
        before = pieces[-1].text
        return next((t for t in self._added if before.endswith(t)), "\n")

    def _skeleton(self, roles: tuple[str, ...]) -> Skeleton | None:
        if roles not in self._skeletons:
            self.check()
            try:
                self._skeletons[roles] = self._learn(roles) if self._triggers else None
            except DataError:
                self._skeletons[roles] = None
        return self._skeletons[roles]

    def _learn(self, roles: tuple[str, ...]) -> Skeleton | None:
        marks = [Message(role, _MARK.format(i)) for i, role in enumerate(roles)]
        text, answers = self._finder.answers(marks)
        starts = [a.start for a in answers]
        indices = [i for i, role in enumerate(roles) if role == "assistant"]
        segments = []
        cuts = sorted({0, len(text), *itertools.chain.from_iterable(answers)})
        for begin, end in itertools.pairwise(cuts):
            parts = [
                int(part) if number % 2 else part
                for number, part in enumerate(_MARKS.split(text[begin:end]))
                if number % 2 or part
            ]
            answer = indices[starts.index(begin)] if begin in starts else None
            segments.append(Segment(parts, answer))
        skeleton = Skeleton(segments, None)
        if not all(self._agrees(skeleton, roles, probe, {}) for probe in _PROBES):
            return None
        names = sorted(set(roles))
        for trims in itertools.product(_TRIMS, repeat=len(names)):
            rule = dict(zip(names, trims, strict=True))
            if self._agrees(skeleton, roles, " \n\t{}\t\n ", rule):
                skeleton.trims = rule
                break
        return skeleton

    def _agrees(
        self, skeleton: Skeleton, roles: tuple[str, ...], probe: str, trims: dict[str, Trim]
    ) -> bool:
        """Whether the filled skeleton is what the template writes."""
        contents = [probe.replace("{}", str(i)) for i in range(len(roles))]
        messages = [Message(r, c) for r, c in zip(roles, contents, strict=True)]
        trimmed = [trims.get(r, str)(c) for r, c in zip(roles, contents, strict=True)]
        filled = "".join(
            p if isinstance(p, str) else trimmed[p] for s in skeleton.segments for p in s.parts
        )
        return filled == self._finder.render(messages)

    def _plain_contents(self, messages: Sequence[Message], skeleton: Skeleton) -> list[str] | None:
        """Contents as the template writes them; None if one must be rendered to know."""
        assert self._triggers is not None
        contents = []
        for message in messages:
            content = message.content
            if content[:1].isspace() or content[-1:].isspace():
                if skeleton.trims is None:
                    return None
                content = skeleton.trims[message.role](content)
            if not content or self._triggers.hit(content):
                return None
            contents.append(content)
        return contents


_PROBES = (
    "x{}",
    "Ab {} <&> \"q\" 'z' {% %} %d\n\n- 12.5\n```py\né 中文 😊\n```\nEnd.",
    "A longer text, the kind that people write. " * 20 + "{}",
)
