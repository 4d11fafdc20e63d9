"""A chat that points: noun phrases of an answer get masks in the picture that it is about.

What the phrases look at is captured while the answer is written, token by token (F-LMM, arXiv
2406.05821, section 3.4): there is no second forward of the model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from inlay.chat.grounder import Grounder
from inlay.chat.noun_chunks import noun_chunks
from inlay.chat.overlay import colour_words, palette
from inlay.chat.overlay_file import numbered, write_overlay
from inlay.chat.session import ChatSession
from inlay.chat.stream import TextStream
from inlay.chat.terminal import note
from inlay.core.errors import ModelError
from inlay.models.grounding.capture import merge_rows
from inlay.models.grounding.decode import DecodeRows, capture_decoding
from inlay.models.grounding.sight import Sight, picture_maps

if TYPE_CHECKING:
    from PIL.Image import Image

PHRASES = ("auto", "nouns", "selector")
"""Who chooses the phrases: the trained keyword selector where there is one, else noun chunks."""

Span = tuple[int, int]
"""First character of a stretch of text, and the one behind its last."""


@dataclass(frozen=True)
class Pointed:
    """An answer, and what it points at.

    Attributes:
        text: the answer.
        spans: its phrases in order.
        masks: bool ``[M, H, W]`` at the picture's size, one a phrase; scores: float32 ``[M]``.
    """

    text: str
    spans: list[Span]
    masks: np.ndarray
    scores: np.ndarray

    @property
    def phrases(self) -> list[str]:
        return [self.text[start:end] for start, end in self.spans]


class GroundedSession(ChatSession):
    """A conversation about one picture whose answers point at it.

    Args:
        grounder: talks and points.
        image: RGB; it stands before the first text of every conversation.
        template: of the chat; None takes the one that the grounder was trained with.
        phrases: one of ``PHRASES``.
        kwargs: as of ``ChatSession``.

    Attributes:
        pointed: of the last answer.

    Raises:
        ModelError: the keyword selector is asked for, and there is none.
    """

    def __init__(
        self,
        grounder: Grounder,
        image: Image,
        template: str | Mapping[str, Any] | None = None,
        *,
        phrases: str = "auto",
        **kwargs: Any,
    ) -> None:
        super().__init__(
            grounder.lmm.model,
            grounder.tokenizer,
            grounder.builder.template if template is None else template,
            image_processor=grounder.image_processor,
            images=[image],
            **kwargs,
        )
        self.grounder, self.image = grounder, image
        selector = None if grounder.model is None else grounder.model.selector
        if phrases == "selector" and selector is None:
            raise ModelError(
                "this checkpoint has no keyword selector. Take the noun phrases (--phrases nouns), "
                "or train one: selector=True in the model of the config"
            )
        self.selector = None if phrases == "nouns" else selector
        self.pointed: Pointed | None = None
        self._tokens: list[int] = []
        self._rows = DecodeRows()

    def reply(
        self,
        text: str,
        on_text: Callable[[str], None] | None = None,
        images: Sequence[Image] = (),
        prefix: str = "",
    ) -> str:
        """As ``ChatSession.reply``; ``pointed`` then holds the phrases' masks."""
        self.pointed = None
        answer = super().reply(text, on_text, images, prefix)
        self.pointed = self._point(answer)
        return answer

    def _generate(self, ids: list[int], stream: TextStream) -> list[int]:
        try:
            with capture_decoding(self.grounder.lmm.decoder, self._columns(ids)) as self._rows:
                self._tokens = super()._generate(ids, stream)
        except BaseException:
            self._rows = DecodeRows()
            raise
        return self._tokens

    def _columns(self, ids: list[int]) -> torch.Tensor:
        """int64 ``[K]`` places of the picture's image tokens: it is the first of the prompt."""
        token = self.grounder.image_processor.image_token_id
        own = self.pictures.plans()[0].ids.count(token)
        return (torch.tensor(ids) == token).nonzero(as_tuple=True)[0][:own]

    @torch.inference_mode()
    def _point(self, answer: str) -> Pointed:
        rows, self._rows = self._rows, DecodeRows()
        # An answer's last token was not seen: it never went in again.
        tokens = token_spans(self.tokenizer, self._tokens)[: len(rows.maps)]
        spans, numbers = _assign(tokens, self._phrases(answer, rows, tokens))
        if not spans:
            width, height = self.image.size
            return Pointed(answer, [], np.zeros((0, height, width), bool), np.zeros(0, np.float32))
        model = self.grounder.model
        merged = merge_rows(rows.maps, numbers, "mean" if model is None else model.merge)
        views = self.grounder.image_processor.views(*self.image.size)
        maps, canvas = picture_maps(self.grounder.lmm, merged, views)
        named = numbers >= 0
        device = rows.hidden.device
        sight = Sight(maps, canvas, rows.hidden[:, named.to(device)], numbers[named].to(device))
        return Pointed(answer, spans, *self.grounder.from_sights(self.image, [sight]))

    def _phrases(self, answer: str, rows: DecodeRows, tokens: list[Span]) -> list[Span]:
        """The phrases of an answer, chosen by the selector or as noun chunks."""
        if self.selector is None or not tokens:
            return noun_chunks(answer)
        assert self.grounder.model is not None
        keywords = self.selector.select(self.grounder.model.layer_mean(rows.hidden))
        found = [_trimmed(answer, tokens[a][0], tokens[b - 1][1]) for a, b in keywords]
        return [(start, end) for start, end in found if start < end]


def token_spans(tokenizer: Any, tokens: Sequence[int]) -> list[Span]:
    """Return the stretch of the decoded text that each token stands for.

    A token that shows nothing yet (bytes of a character, a special token) shares the stretch of the
    next one.
    """
    stream = TextStream(tokenizer)
    lengths = [0]
    for token in tokens:
        stream.push(token)
        lengths.append(len(stream.text))
    lengths[-1] = len(stream.finish())
    spans = list(pairwise(lengths))
    for index in range(len(spans) - 2, -1, -1):
        start, end = spans[index]
        if start == end:
            spans[index] = spans[index + 1]
    return spans


def _assign(tokens: list[Span], phrases: list[Span]) -> tuple[list[Span], torch.Tensor]:
    """Return the phrases that have tokens, and int64 ``[T]``: the phrase of each token, or -1."""
    numbers = torch.full((len(tokens),), -1)
    found: list[Span] = []
    for start, end in phrases:
        own = [n for n, (a, b) in enumerate(tokens) if a < end and b > start and numbers[n] < 0]
        if own:
            numbers[own] = len(found)
            found.append((start, end))
    return found, numbers


def _trimmed(text: str, start: int, end: int) -> Span:
    """A stretch without the white space at its ends."""
    part = text[start:end]
    return start + len(part) - len(part.lstrip()), start + len(part.rstrip())


class Overlays:
    """Shows what each answer points at: a picture file, and in a terminal the coloured words.

    The files are numbered by answers: ``out_1.png``, ``out_2.png``, ...

    Args:
        session: answers.
        path: name of the files before they are numbered.
        picture: file or address of the picture, which is never overwritten.
    """

    def __init__(self, session: GroundedSession, path: Path, picture: str) -> None:
        self.session = session
        self.paths = numbered(path, picture)

    def __call__(self, interactive: bool) -> None:
        """Show the last answer's masks.

        Args:
            interactive: a terminal: the answer is printed once more, its phrases in the colours
                of their masks.

        Raises:
            DataError: the file cannot be written.
        """
        from rich.console import Console

        pointed, path = self.session.pointed, next(self.paths)
        if pointed is None or not pointed.spans:
            note("Log: the answer names nothing that could be pointed at: no overlay.")
            return
        write_overlay(path, self.session.image, pointed.masks, pointed.phrases, pointed.scores)
        if interactive:
            words = colour_words(pointed.text, pointed.spans, palette(len(pointed.spans)))
            Console().print(words, soft_wrap=True)
        print(f"overlay: {path}", flush=True)
