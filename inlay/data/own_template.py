"""Conversations as tokens under the tokenizer's own chat template.

The template renders the whole conversation; every answer is found in that text and cut out
together with the token that ends it, so that it is tokenised, trained and prompted for at exactly
one place. Rendering is slow, so per form of a conversation (its roles, and where its pictures are)
the text between the contents is learned once (a *skeleton*), tried on other contents, and filled in
from then on.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from inlay.core.errors import DataError
from inlay.core.io import fingerprint
from inlay.core.types import IMAGE_MARK, Message
from inlay.data.answers import Answer, AnswerFinder
from inlay.data.template_triggers import Triggers, find_triggers
from inlay.data.tokens import BatchTokenizer, Piece

# Private-use characters: no template and no text has them.
_MARK = "\ue0a1{}\ue0a2"
_MARKS = re.compile("\ue0a1(\\d+)\ue0a2")

_TEXT = re.compile(f"[^{IMAGE_MARK}]+")

Form = tuple[tuple[str, str], ...]
"""What a skeleton is learned for: roles, and contents with an ``x`` for every stretch of text."""

Trim = Callable[[str], str]
_TRIMS: tuple[Trim, ...] = (str, str.strip, str.rstrip, str.lstrip)


class Segment(NamedTuple):
    """A piece of a skeleton: the template's texts and numbers of the conversation's texts in turn;
    ``answer`` names the message whose answer it is."""

    parts: list[str | int]
    answer: int | None


@dataclass
class Skeleton:
    """What a template writes around the contents of one form of conversation.

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
        placeholder: what the template writes for a picture, where contents are lists of parts;
            None where they are strings.
    """

    stop_words: list[str] = []

    def __init__(self, tokenize: BatchTokenizer, placeholder: str | None = None) -> None:
        self._tokenize = tokenize
        self._tokenizer = tokenize.tokenizer
        self._placeholder = placeholder
        self.takes_parts = placeholder is not None
        self._finder = AnswerFinder(tokenize.tokenizer, placeholder)
        self._added: list[str] = list(tokenize.tokenizer.get_added_vocab())
        self._triggers: Triggers | None = find_triggers(self._finder.source)
        self._skeletons: dict[Form, Skeleton | None] = {}

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
        skeleton = self._skeleton(tuple([(m.role, self._shape(m.content)) for m in messages]))
        contents = self._plain_contents(messages, skeleton) if skeleton else None
        if skeleton is None or contents is None:
            text, answers = self._finder.answers(messages)
            return self._cut(text, answers, messages)
        pieces: list[Piece] = []
        for parts, answer in skeleton.segments:
            trained = answer is not None and messages[answer].trained
            text = "".join([p if isinstance(p, str) else contents[p] for p in parts])
            after = self._after(pieces)
            if len(parts) == 1 and isinstance(parts[0], str) and IMAGE_MARK not in text:
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

    def _has_parts(self, content: str) -> bool:
        """Whether the template gets a content in several parts, or without any text."""
        return self._placeholder is not None and IMAGE_MARK in content

    def _shape(self, content: str) -> str:
        return _TEXT.sub("x", content) if self._has_parts(content) else "x"

    def _skeleton(self, form: Form) -> Skeleton | None:
        if form not in self._skeletons:
            self.check()
            try:
                self._skeletons[form] = self._learn(form) if self._triggers else None
            except DataError:
                self._skeletons[form] = None
        return self._skeletons[form]

    def _learn(self, form: Form) -> Skeleton | None:
        text, answers = self._finder.answers(_filled(form, _MARK))
        starts = [a.start for a in answers]
        indices = [i for i, (role, _) in enumerate(form) if role == "assistant"]
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
        if not all(self._agrees(skeleton, form, probe, {}) for probe in _PROBES):
            return None
        names = sorted({role for role, _ in form})
        for trims in itertools.product(_TRIMS, repeat=len(names)):
            rule = dict(zip(names, trims, strict=True))
            if self._agrees(skeleton, form, " \n\t{}\t\n ", rule):
                skeleton.trims = rule
                break
        return skeleton

    def _agrees(self, skeleton: Skeleton, form: Form, probe: str, trims: dict[str, Trim]) -> bool:
        """Whether the filled skeleton is what the template writes."""
        messages = _filled(form, probe)
        texts = [trims.get(m.role, str)(t) for m in messages for t in self._texts(m.content)]
        filled = "".join(
            p if isinstance(p, str) else texts[p] for s in skeleton.segments for p in s.parts
        )
        return filled == self._finder.render(messages)

    def _texts(self, content: str) -> list[str]:
        return _TEXT.findall(content) if self._has_parts(content) else [content]

    def _plain_contents(self, messages: Sequence[Message], skeleton: Skeleton) -> list[str] | None:
        """Texts as the template writes them; None if one must be rendered to know."""
        assert self._triggers is not None
        contents = []
        for message in messages:
            for content in self._texts(message.content):
                if content[:1].isspace() or content[-1:].isspace():
                    if skeleton.trims is None:
                        return None
                    content = skeleton.trims[message.role](content)
                if not content or self._triggers.hit(content):
                    return None
                contents.append(content)
        return contents


def _filled(form: Form, probe: str) -> list[Message]:
    """A conversation of a form, each of its texts being ``probe`` with the text's number."""
    numbers = itertools.count()
    return [
        Message(role, _X.sub(lambda _: probe.replace("{}", str(next(numbers))), shape))
        for role, shape in form
    ]


_X = re.compile("x")

_PROBES = (
    "x{}",
    "Ab {} <&> \"q\" 'z' {% %} %d\n\n- 12.5\n```py\né 中文 😊\n```\nEnd.",
    "A longer text, the kind that people write. " * 20 + "{}",
)
