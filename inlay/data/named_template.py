"""Conversations as tokens under a named prompt template.

Per turn: [BOS, on the first turn and wherever the turn before ended with EOS] + input + answer and
suffix (trained) + [EOS, unless the suffix serves as EOS; trained] + [separator]. The pieces are
tokenised apart from each other, as XTuner does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from inlay.core.errors import ConfigError, DataError
from inlay.core.io import fingerprint
from inlay.core.types import Message
from inlay.data.templates import check_template, fill
from inlay.data.tokens import BatchTokenizer, Piece, bos_ids
from inlay.data.turns import Turn, to_turns


class NamedTemplate:
    """Cuts conversations into pieces under a prompt template.

    Args:
        tokenize: the tokenizer.
        template: a name in ``PROMPT_TEMPLATE`` or a dict with its keys.

    Raises:
        ConfigError: the template is not valid, or needs an EOS that the tokenizer does not have.
    """

    def __init__(self, tokenize: BatchTokenizer, template: str | Mapping[str, Any]) -> None:
        self.template = check_template(template)
        tokenizer = tokenize.tokenizer
        self._suffix: str = self.template.get("SUFFIX", "")
        eos = tokenizer.eos_token_id
        self._eos_text: str = tokenizer.eos_token or ""
        self._eos = [] if self.template.get("SUFFIX_AS_EOS") or eos is None else [eos]
        if not self._eos and not self.template.get("SUFFIX_AS_EOS"):
            raise ConfigError(
                "the prompt template has no stop token: it ends answers with the tokenizer's EOS, "
                "and this tokenizer has none. Set tokenizer.eos_token, or give the template a "
                "SUFFIX with SUFFIX_AS_EOS=True."
            )
        first = bos_ids(tokenizer)
        self._bos = Piece("".join(tokenizer.convert_ids_to_tokens(first)), False, first)
        separator = self.template.get("SEP", "")
        self._sep = Piece(separator, False, tokenize.constant(separator)) if separator else None
        self.stop_words: list[str] = list(self.template.get("STOP_WORDS", ()))
        if self.template.get("SUFFIX_AS_EOS") and self._suffix not in self.stop_words:
            self.stop_words.append(self._suffix)
        ends = [tokenize.constant(word) for word in self.stop_words]
        ids = [*([] if eos is None else [eos]), *(end[0] for end in ends if len(end) == 1)]
        self.stop_token_ids: list[int] = list(dict.fromkeys(ids))

    def check(self) -> None:
        """Nothing left to check: the constructor did."""

    def identity(self) -> str:
        """Fingerprint of the template's texts."""
        return fingerprint(self.template)

    def pieces(self, messages: Sequence[Message]) -> list[Piece]:
        """Cut a conversation up to its last answer."""
        return self._cut([turn for turn in to_turns(messages) if turn.output is not None])

    def prompt(self, messages: Sequence[Message]) -> list[Piece]:
        """Cut a conversation whose last question is still to be answered.

        Raises:
            DataError: the last message is not the user's.
        """
        turns = to_turns(messages)
        if not turns or turns[-1].output is not None:
            raise DataError("a prompt must end with a user message")
        return self._cut(turns)

    def _cut(self, turns: list[Turn]) -> list[Piece]:
        pieces: list[Piece] = []
        for index, turn in enumerate(turns):
            if self._bos.ids and (index == 0 or self._eos):
                pieces.append(self._bos)
            pieces.append(Piece(self._question(turn, index + 1), False))
            if turn.output is None:
                break
            pieces.append(Piece(turn.output + self._suffix, turn.trained))
            if self._eos:
                pieces.append(Piece(self._eos_text, turn.trained, self._eos))
            if self._sep:
                pieces.append(self._sep)
        return pieces

    def _question(self, turn: Turn, number: int) -> str:
        before, text = "", turn.input
        if turn.system:
            if "SYSTEM" not in self.template:
                raise DataError("the prompt template has no SYSTEM, and the row has a system text")
            system = fill(self.template["SYSTEM"], system=turn.system)
            if self.template.get("SYSTEM_INSIDE"):
                text = system + text
            else:
                before = system
        return before + fill(self.template["INSTRUCTION"], input=text, round=number)
