"""Turn token ids into text while they are generated."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

BROKEN = "\ufffd"  # what a decoder writes for bytes that are not (yet) a character


class TextStream:
    """Decodes tokens one by one. Text once given out is never taken back.

    Bytes of an unfinished character are held back, and so is text that may become a stop word.

    Args:
        tokenizer: a transformers tokenizer.
        stop_words: texts that end the answer and are not part of it.
        context: token ids before the first pushed one. With a context the text continues it, with
            the space between words that some tokenizers drop at the beginning of a text.
        on_text: called with each new piece of text.
    """

    def __init__(
        self,
        tokenizer: Any,
        stop_words: Iterable[str] = (),
        context: Sequence[int] = (),
        on_text: Callable[[str], None] | None = None,
    ) -> None:
        self.tokenizer = tokenizer
        self.stop_words = [word for word in stop_words if word]
        self.on_text = on_text
        self.text = ""
        self.stopped = False
        self._held = ""
        # Only a window is decoded: the tokens of the last piece, for their effect on the next
        # one, and those since.
        self._window = list(context)
        self._read = len(self._window)

    def push(self, token: int) -> bool:
        """Take one more token id; return True once a stop word is complete."""
        self._window.append(token)
        piece = self._piece()
        if piece and not piece.endswith(BROKEN):
            self._window, self._read = self._window[self._read :], len(self._window) - self._read
            self._take(piece)
        return self.stopped

    def finish(self) -> str:
        """Give out what was held back and return the whole text."""
        if not self.stopped:
            self._take(self._piece())
        if not self.stopped:
            held, self._held = self._held, ""
            self._give(held)
        return self.text

    def _piece(self) -> str:
        before = self._decode(self._window[: self._read])
        return self._decode(self._window)[len(before) :]

    def _decode(self, ids: list[int]) -> str:
        return self.tokenizer.decode(
            ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )

    def _take(self, piece: str) -> None:
        self._held += piece
        found = [at for word in self.stop_words if (at := self._held.find(word)) >= 0]
        self.stopped = bool(found)
        safe = min(found, default=len(self._held) - _overlap(self._held, self.stop_words))
        sure, self._held = self._held[:safe], self._held[safe:]
        self._give(sure)

    def _give(self, piece: str) -> None:
        self.text += piece
        if piece and self.on_text:
            self.on_text(piece)


def _overlap(text: str, words: list[str]) -> int:
    """Length of the longest end of ``text`` that is the beginning of one of ``words``."""
    longest = max((len(word) for word in words), default=1) - 1
    for size in range(min(longest, len(text)), 0, -1):
        if any(word.startswith(text[-size:]) for word in words):
            return size
    return 0
