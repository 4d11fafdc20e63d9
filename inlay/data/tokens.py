"""Text to token ids in batches, without special tokens, and what tells a tokenizer apart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from inlay.core.io import fingerprint

_PROBE = "Ab c\n\n 12 é中 <|x|> 'll"


class Piece(NamedTuple):
    """A stretch of a conversation that is tokenised on its own.

    Attributes:
        text: its text; it is not tokenised where ``ids`` is given.
        trained: whether the loss covers it.
        ids: its tokens, where they are always the same.
        after: text to tokenise it behind (and drop again), so that a SentencePiece tokenizer does
            not take it for the start of a text.
    """

    text: str
    trained: bool
    ids: Sequence[int] | None = None
    after: str = ""


class BatchTokenizer:
    """A tokenizer of transformers as a function from texts to ids.

    Args:
        tokenizer: fast or slow; a fast one is called below transformers' own wrapping where both
            give the same ids, since the wrapping costs a fifth of the time.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self._backend: Any = tokenizer.backend_tokenizer if tokenizer.is_fast else None
        self._constants: dict[tuple[str, str], list[int]] = {}
        if self._backend is not None and self._fast([_PROBE]) != self._plain([_PROBE]):
            self._backend = None
        self.adds_prefix = self._adds_prefix()

    def __call__(self, texts: list[str]) -> list[list[int]]:
        """Return the ids of every text, without special tokens around them."""
        if not texts:
            return []
        return self._fast(texts) if self._backend is not None else self._plain(texts)

    def pieces(self, pieces: Sequence[Piece]) -> list[Sequence[int]]:
        """Return the ids of every piece, in one call of the tokenizer."""
        rest = [p for p in pieces if p.ids is None]
        found = iter(self([p.after + p.text for p in rest]))
        return [p.ids if p.ids is not None else self._behind(p, next(found)) for p in pieces]

    def constant(self, text: str, after: str = "") -> list[int]:
        """Return the ids of a text that is asked for again and again."""
        key = (text, after)
        if key not in self._constants:
            ids = self([after + text])[0]
            self._constants[key] = self._behind(Piece(text, False, None, after), ids)
        return self._constants[key]

    def _behind(self, piece: Piece, ids: list[int]) -> list[int]:
        if not piece.after:
            return ids
        head = self.constant(piece.after)
        # The tokenizer joined the two: then the piece stands alone.
        return ids[len(head) :] if ids[: len(head)] == head else self([piece.text])[0]

    def _plain(self, texts: list[str]) -> list[list[int]]:
        encoded = self.tokenizer(texts, add_special_tokens=False, return_attention_mask=False)
        return encoded["input_ids"]

    def _fast(self, texts: list[str]) -> list[list[int]]:
        backend = self._backend
        backend.no_truncation()
        backend.no_padding()
        encodings = backend.encode_batch_fast(texts, add_special_tokens=False)
        return [encoding.ids for encoding in encodings]

    def _adds_prefix(self) -> bool:
        """Whether a text's first word gets a space before it, as SentencePiece models do."""
        ids = self(["a"])[0]
        return bool(ids) and self.tokenizer.convert_ids_to_tokens(ids)[0][0] in "▁Ġ"


def bos_ids(tokenizer: Any) -> list[int]:
    """Tokens that open a text or a turn; none for Qwen, whose models never saw one."""
    name = type(tokenizer).__name__.lower()
    if name.startswith("chatglm"):
        return [64790, 64792]  # [gMASK], sop
    if name.startswith("qwen") or tokenizer.bos_token_id is None:
        return []
    return [tokenizer.bos_token_id]


def tokenizer_identity(tokenizer: Any) -> str:
    """Return 16 hex digits over everything that decides which ids a text gets; no paths."""
    special = {k: str(v) for k, v in tokenizer.special_tokens_map.items()}
    if not tokenizer.is_fast:
        vocab = sorted(tokenizer.get_vocab().items())
        return fingerprint([type(tokenizer).__name__, vocab, special])
    state = tokenizer.backend_tokenizer.to_str()
    # Before the added tokens stand truncation and padding, which callers change as they go.
    return fingerprint([state.partition('"added_tokens"')[2], special, bos_ids(tokenizer)])
