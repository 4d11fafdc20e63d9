"""Conversations to tokens and loss masks, the same for training and for chatting."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from inlay.core.errors import DataError
from inlay.core.types import Conversation, Message, Sample
from inlay.data.named_template import NamedTemplate
from inlay.data.own_template import OwnTemplate
from inlay.data.tokens import BatchTokenizer, Piece, bos_ids, tokenizer_identity


class ChatEncoder:
    """Turns conversations into tokens, with the loss on the answers and their stop tokens.

    Args:
        tokenizer: a tokenizer of transformers.
        template: a name in ``PROMPT_TEMPLATE``, a dict with a template's keys, or None for the
            tokenizer's own chat template. Plain documents need no template.

    Raises:
        ConfigError: an unknown or unusable template.
    """

    def __init__(self, tokenizer: Any, template: str | Mapping[str, Any] | None = None) -> None:
        self.tokenizer = tokenizer
        self._tokenize = BatchTokenizer(tokenizer)
        self._bos = Piece("", False, bos_ids(tokenizer))
        self._layout: NamedTemplate | OwnTemplate
        if template is None:
            self._layout = OwnTemplate(self._tokenize)
        else:
            self._layout = NamedTemplate(self._tokenize, template)

    def check(self) -> None:
        """Make sure that conversations can be encoded.

        Raises:
            ConfigError: there is no template, or it writes no stop token.
        """
        self._layout.check()

    def encode(self, conversations: Sequence[Conversation]) -> list[Sample]:
        """Tokenise conversations in one batch.

        A document (``Conversation.text``) is BOS and its tokens, all trained, without EOS. What
        follows a conversation's last answer is left out.

        Returns:
            One sample per conversation, in order. Its arrays are views of shared ones.

        Raises:
            DataError: a conversation without an answer, or one that the template refuses.
            ConfigError: there is no usable template.
        """
        pieces: list[Piece] = []
        ends: list[int] = []
        for conversation in conversations:
            pieces += self._pieces(conversation)
            ends.append(len(pieces))
        try:
            tokens = self._tokenize.pieces(pieces)
        except (TypeError, UnicodeEncodeError) as error:
            raise DataError(f"a text cannot be tokenised: {error}") from error
        lengths = np.fromiter(map(len, tokens), np.int64, len(tokens))
        total = int(lengths.sum())
        ids = np.fromiter(itertools.chain.from_iterable(tokens), np.int32, total)
        trained = np.fromiter((p.trained for p in pieces), np.bool_, len(pieces))
        mask = np.repeat(trained, lengths)
        bounds = np.concatenate([[0], np.cumsum(lengths)])[[0, *ends]]
        firsts = bounds[:-1]
        mask[firsts[firsts < total]] = False
        return [Sample(ids[a:b], mask[a:b]) for a, b in itertools.pairwise(bounds.tolist())]

    def prompt_ids(self, messages: Sequence[Message]) -> list[int]:
        """Return the tokens that training saw before the answer to the last user message.

        Raises:
            DataError: no user message at the end, or the template refuses the conversation.
            ConfigError: there is no usable template.
        """
        pieces = self._layout.prompt(messages)
        return list(itertools.chain.from_iterable(self._tokenize.pieces(pieces)))

    @property
    def stop_token_ids(self) -> list[int]:
        """Tokens that end an answer."""
        return self._layout.stop_token_ids

    @property
    def stop_words(self) -> list[str]:
        """Texts that end an answer, for templates that end it with a text."""
        return self._layout.stop_words

    def identity(self) -> dict[str, str]:
        """Fingerprints of ``template`` and ``tokenizer``, which no path enters."""
        return {"template": self._layout.identity(), "tokenizer": self._tokenizer_identity}

    @cached_property
    def _tokenizer_identity(self) -> str:
        return tokenizer_identity(self.tokenizer)

    def _pieces(self, conversation: Conversation) -> list[Piece]:
        if conversation.text is not None:
            return [self._bos, Piece(conversation.text, True)]
        if not any(m.role == "assistant" for m in conversation.messages):
            roles = ", ".join(m.role for m in conversation.messages) or "none"
            raise DataError(f"there is no assistant turn (roles: {roles})")
        return self._layout.pieces(conversation.messages)
