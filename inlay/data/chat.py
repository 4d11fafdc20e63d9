"""Conversations to tokens and loss masks, the same for training and for chatting."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np

from inlay.core.errors import DataError
from inlay.core.types import Conversation, ImagePlan, ImageProcessor, Message, Sample
from inlay.data.named_template import NamedTemplate
from inlay.data.own_template import OwnTemplate
from inlay.data.picture_text import cut_at_pictures, literals, without
from inlay.data.tokens import BatchTokenizer, Piece, bos_ids, tokenizer_identity

Plans = Sequence[ImagePlan]
"""The tokens of a conversation's pictures, one plan each, in order."""


class ChatEncoder:
    """Turns conversations into tokens, with the loss on the answers and their stop tokens.

    Args:
        tokenizer: a tokenizer of transformers.
        template: a name in ``PROMPT_TEMPLATE``, a dict with a template's keys, or None for the
            tokenizer's own chat template. Plain documents need no template.
        image_processor: of a model with eyes. Its image token is removed wherever it stands in
            the texts: pictures are where ``IMAGE_MARK`` is, and nowhere else.

    Raises:
        ConfigError: an unknown or unusable template.
    """

    def __init__(
        self,
        tokenizer: Any,
        template: str | Mapping[str, Any] | None = None,
        image_processor: ImageProcessor | None = None,
    ) -> None:
        self.tokenizer = tokenizer
        self.image_processor = image_processor
        self._tokenize = BatchTokenizer(tokenizer)
        self._bos = Piece("", False, bos_ids(tokenizer))
        self._literals = literals(image_processor) if image_processor else []
        self._layout: NamedTemplate | OwnTemplate
        if template is None:
            placeholder = image_processor.placeholder if image_processor else None
            self._layout = OwnTemplate(self._tokenize, placeholder)
        else:
            self._layout = NamedTemplate(self._tokenize, template)

    def check(self) -> None:
        """Make sure that conversations can be encoded.

        Raises:
            ConfigError: there is no template, or it writes no stop token.
        """
        self._layout.check()

    def encode(
        self, conversations: Sequence[Conversation], plans: Sequence[Plans] | None = None
    ) -> list[Sample]:
        """Tokenise conversations in one batch.

        A document (``Conversation.text``) is BOS and its tokens, all trained, without EOS. What
        follows a conversation's last answer is left out. The tokens of pictures are not trained.

        Args:
            plans: for each conversation the tokens of its pictures; None: there are no pictures.

        Returns:
            One sample per conversation, in order. Its arrays are views of shared ones.

        Raises:
            DataError: a conversation without an answer, one that the template refuses, or one
                whose text has places for more pictures than it has, or fewer.
            ConfigError: there is no usable template.
        """
        if plans is None:
            plans = [()] * len(conversations)
        pieces: list[Piece] = []
        ends: list[int] = []
        for conversation, planned in zip(conversations, plans, strict=True):
            pieces += self._pieces(conversation, planned)
            ends.append(len(pieces))
        tokens = self._tokens(pieces)
        lengths = np.fromiter(map(len, tokens), np.int64, len(tokens))
        total = int(lengths.sum())
        ids = np.fromiter(itertools.chain.from_iterable(tokens), np.int32, total)
        self._check_image_tokens(ids, plans)
        trained = np.fromiter((p.trained for p in pieces), np.bool_, len(pieces))
        mask = np.repeat(trained, lengths)
        bounds = np.concatenate([[0], np.cumsum(lengths)])[[0, *ends]]
        firsts = bounds[:-1]
        mask[firsts[firsts < total]] = False
        samples = [Sample(ids[a:b], mask[a:b]) for a, b in itertools.pairwise(bounds.tolist())]
        for sample, conversation, planned in zip(samples, conversations, plans, strict=True):
            if planned:
                sample.images = conversation.images
                sample.tiles = sum(plan.tiles for plan in planned)
        return samples

    def prompt_ids(self, messages: Sequence[Message], plans: Plans = ()) -> list[int]:
        """Return the tokens that training saw before the answer to the last user message.

        Args:
            plans: the tokens of the pictures in ``messages``.

        Raises:
            DataError: no user message at the end, the template refuses the conversation, or
                pictures and places for them are not equally many.
            ConfigError: there is no usable template.
        """
        pieces = self._with_pictures(self._layout.prompt(self._clean(messages)), plans)
        return list(itertools.chain.from_iterable(self._tokenize.pieces(pieces)))

    def text(self, messages: Sequence[Message]) -> str:
        """Return the text whose tokens training saw: of a conversation up to its last answer, or,
        where that is still to be written, of its prompt. ``IMAGE_MARK`` stands for pictures.

        Raises:
            DataError, ConfigError: as ``encode`` and ``prompt_ids``.
        """
        answered = messages[-1].role == "assistant"
        cut = self._layout.pieces if answered else self._layout.prompt
        return "".join(piece.text for piece in cut(self._clean(messages)))

    @property
    def takes_parts(self) -> bool:
        """Whether the chat template is given contents as lists of parts."""
        return isinstance(self._layout, OwnTemplate) and self._layout.takes_parts

    @property
    def stop_token_ids(self) -> list[int]:
        """Tokens that end an answer."""
        return self._layout.stop_token_ids

    @property
    def stop_words(self) -> list[str]:
        """Texts that end an answer, for templates that end it with a text."""
        return self._layout.stop_words

    def identity(self) -> dict[str, str]:
        """Fingerprints of ``template``, ``tokenizer`` and, if there is one, ``image_processor``,
        which no path enters."""
        found = {"template": self._layout.identity(), "tokenizer": self._tokenizer_identity}
        if self.image_processor is not None:
            found["image_processor"] = self.image_processor.identity()
        return found

    @cached_property
    def _tokenizer_identity(self) -> str:
        return tokenizer_identity(self.tokenizer)

    def _pieces(self, conversation: Conversation, plans: Plans) -> list[Piece]:
        if conversation.text is not None:
            text = without(self._literals, conversation.text)
            return self._with_pictures([self._bos, Piece(text, True)], plans)
        if not any(m.role == "assistant" for m in conversation.messages):
            roles = ", ".join(m.role for m in conversation.messages) or "none"
            raise DataError(f"there is no assistant turn (roles: {roles})")
        return self._with_pictures(self._layout.pieces(self._clean(conversation.messages)), plans)

    def _clean(self, messages: Sequence[Message]) -> Sequence[Message]:
        """Messages without literal image tokens."""
        if not any(text in m.content for m in messages for text in self._literals):
            return messages
        return [replace(m, content=without(self._literals, m.content)) for m in messages]

    def _with_pictures(self, pieces: list[Piece], plans: Plans) -> list[Piece]:
        if self.image_processor is None and not plans:
            return pieces
        return cut_at_pictures(pieces, plans, self._behind)

    def _behind(self, plan: ImagePlan) -> str:
        """What the text after a picture is tokenised behind, where it makes a difference."""
        if not self._tokenize.adds_prefix or isinstance(self._layout, NamedTemplate):
            return ""  # named templates tokenise their pieces apart
        token = self.tokenizer.added_tokens_decoder.get(plan.ids[-1])
        return token.content if token else "\n"

    def _tokens(self, pieces: list[Piece]) -> list[Sequence[int]]:
        try:
            return self._tokenize.pieces(pieces)
        except (TypeError, UnicodeEncodeError) as error:
            raise DataError(f"a text cannot be tokenised: {error}") from error

    def _check_image_tokens(self, ids: np.ndarray, plans: Sequence[Plans]) -> None:
        if self.image_processor is None:
            return
        token = self.image_processor.image_token_id
        planned = sum(plan.ids.count(token) for found in plans for plan in found)
        if planned != np.count_nonzero(ids == token):
            raise DataError(
                f"the text itself becomes the image token {self.image_processor.image_token!r}, "
                "which only a picture may: remove what stands for it from the text"
            )
