"""Prompt and caption as tokens, each caption token with the mask that it names.

F-LMM (arXiv 2406.05821): the caption stands behind the prompt as if the model had answered it, its
pieces tokenised apart from each other; no EOS, no system text.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from inlay.core.errors import ConfigError, DataError
from inlay.core.io import fingerprint
from inlay.core.types import IMAGE_MARK, ImagePlan, ImageProcessor, Message
from inlay.data.chat import ChatEncoder
from inlay.data.picture_text import literals, without
from inlay.data.templates import check_template, fill
from inlay.data.tokens import BatchTokenizer, Piece, tokenizer_identity

PROMPT = "<image>\nPlease give me a description of the image."
"""What F-LMM asks every model, in training and in evaluation."""

Size = tuple[int, int]
"""Width and height of a picture in px."""

_MARKS = ("<image>", "<image_placeholder>")  # of users' configs, whatever the model's own token is
_KEPT_PROMPTS = 1000


class CaptionTokens(NamedTuple):
    """A prompt and its caption.

    Attributes:
        ids: int32 ``[N]``.
        caption_rows: int64 ``[T]``, places of the caption's tokens in ``ids``: the last ``T``.
        mask_ids: int64 ``[T]``, the mask that each of them names, or -1.
    """

    ids: np.ndarray
    caption_rows: np.ndarray
    mask_ids: np.ndarray


class SequenceBuilder:
    """Writes prompts and captions, the same for training, evaluation and chat.

    Args:
        tokenizer: a tokenizer of transformers.
        image_processor: knows the tokens of pictures.
        template: a name in ``PROMPT_TEMPLATE`` or a template dict, of which the ``INSTRUCTION``
            is used, with the special tokens that the tokenizer puts around a text; None: the
            tokenizer's own chat template with its generation prompt.
        prompt: each ``<image>`` (or ``<image_placeholder>``, or the model's own image token, any
            number of them in a row) stands for one picture.
        max_length: most tokens of a sequence; None: any number.

    Raises:
        ConfigError: no picture in the prompt, an unusable template, or a tokenizer that does not
            know the image token.
    """

    def __init__(
        self,
        tokenizer: Any,
        image_processor: ImageProcessor,
        *,
        template: str | Mapping[str, Any] | None = None,
        prompt: str = PROMPT,
        max_length: int | None = None,
    ) -> None:
        self.tokenizer, self.image_processor = tokenizer, image_processor
        self.max_length = max_length
        if isinstance(template, Mapping):  # F-LMM's templates have SYSTEM=""
            template = {k: v for k, v in template.items() if v or k != "SYSTEM"}
        self.template = template
        self._literals = literals(image_processor)
        self._tokenize = BatchTokenizer(tokenizer)
        self._prompt = self._marked(prompt)
        self.num_pictures = self._prompt.count(IMAGE_MARK)
        if not self.num_pictures:
            raise ConfigError(f"the prompt has no place for a picture (<image>): {prompt!r}")
        self._instruction: str | None = None
        self._chat: ChatEncoder | None = None
        if template is None:
            self._chat = ChatEncoder(tokenizer, None, image_processor)
            self._chat.check()
        else:
            self._instruction = check_template(template)["INSTRUCTION"]
        self._prompts: dict[tuple[ImagePlan, ...], np.ndarray] = {}

    @property
    def question(self) -> str:
        """The prompt without its pictures."""
        return self._prompt.replace(IMAGE_MARK, "").strip()

    def with_prompt(self, prompt: str) -> SequenceBuilder:
        """Return a builder that differs in its prompt alone.

        Raises:
            ConfigError: no picture in the prompt.
        """
        return SequenceBuilder(
            self.tokenizer,
            self.image_processor,
            template=self.template,
            prompt=prompt,
            max_length=self.max_length,
        )

    def build(
        self,
        sizes: Size | Sequence[Size],
        pieces: Sequence[tuple[str, int]],
        *,
        is_text: bool = False,
    ) -> CaptionTokens:
        """Return the tokens of a prompt and a caption.

        Args:
            sizes: of the prompt's pictures in order; of one picture, its size alone will do.
            pieces: of the caption, each with the number of the mask that it names, or -1. Each is
                tokenised on its own.
            is_text: the pieces are stretches of one text: a tokenizer that begins each text with a
                space does not do so at every piece.

        Raises:
            DataError: more than ``max_length`` tokens, a phrase without tokens, or pictures and
                their places in the prompt are not equally many.
        """
        prompt = self.prompt_ids(sizes)
        tokens = self._caption(pieces, is_text)
        lengths = [len(ids) for ids in tokens]
        for (text, number), length in zip(pieces, lengths, strict=True):
            if number >= 0 and not length:
                raise DataError(f"the phrase {text!r} of mask {number} has no tokens")
        total = len(prompt) + sum(lengths)
        if self.max_length is not None and total > self.max_length:
            raise self._too_long(pieces, lengths, len(prompt))
        caption = np.fromiter(itertools.chain.from_iterable(tokens), np.int32, sum(lengths))
        if np.any(caption == self.image_processor.image_token_id):
            raise DataError(f"the caption becomes the image token: {[text for text, _ in pieces]}")
        return CaptionTokens(
            np.concatenate([prompt, caption]),
            np.arange(len(prompt), total),
            np.repeat(np.array([number for _, number in pieces], np.int64), lengths),
        )

    def prompt_ids(self, sizes: Size | Sequence[Size]) -> np.ndarray:
        """Return the tokens before the caption, int32 ``[N]``; ``sizes`` as of ``build``.

        Raises:
            DataError: pictures and their places in the prompt are not equally many.
        """
        plans = tuple(self.plans(sizes))
        if plans not in self._prompts:
            if len(self._prompts) >= _KEPT_PROMPTS:
                self._prompts.clear()
            make = self._own_template if self._chat is not None else self._named_template
            self._prompts[plans] = np.array(make(plans), np.int32)
        return self._prompts[plans]

    def plans(self, sizes: Size | Sequence[Size]) -> list[ImagePlan]:
        """Return the tokens of each picture; ``sizes`` as of ``build``.

        Raises:
            DataError: pictures and their places in the prompt are not equally many.
        """
        found = _as_list(sizes)
        if len(found) != self.num_pictures:
            raise DataError(
                f"the prompt has places for {self.num_pictures} pictures, there are {len(found)}"
            )
        return [self.image_processor.plan(*s, i, len(found)) for i, s in enumerate(found)]

    def first_tokens(self, sizes: Size | Sequence[Size]) -> list[int]:
        """Return the place of each picture's first image token among all of the sequence's."""
        token = self.image_processor.image_token_id
        counts = [plan.ids.count(token) for plan in self.plans(sizes)]
        return list(itertools.accumulate(counts, initial=0))[:-1]

    def identity(self) -> dict[str, str]:
        """Fingerprints of ``template`` (with the prompt), ``tokenizer`` and ``image_processor``."""
        if self._chat is not None:
            found = self._chat.identity()
            return {**found, "template": fingerprint([found["template"], self._prompt])}
        return {
            "template": fingerprint([self._instruction, self._prompt]),
            "tokenizer": tokenizer_identity(self.tokenizer),
            "image_processor": self.image_processor.identity(),
        }

    def _marked(self, prompt: str) -> str:
        """The prompt with a mark for each picture."""
        names = sorted({*_MARKS, *self._literals}, key=len)[::-1]
        return re.sub("|".join(f"(?:{re.escape(name)})+" for name in names), IMAGE_MARK, prompt)

    def _own_template(self, plans: Sequence[ImagePlan]) -> list[int]:
        assert self._chat is not None
        return self._chat.prompt_ids([Message("user", self._prompt)], plans)

    def _named_template(self, plans: Sequence[ImagePlan]) -> list[int]:
        """The instruction in one call of the tokenizer, as F-LMM has it, one image token for each
        picture in it, which then becomes all of the picture's tokens."""
        assert self._instruction is not None
        processor = self.image_processor
        texts = fill(self._instruction, input=self._prompt, round=1).split(IMAGE_MARK)
        text = texts[0]
        for plan, behind in zip(plans, texts[1:], strict=True):
            text += plan.prefix + processor.image_token + plan.suffix + behind
        ids = self.tokenizer.encode(text, add_special_tokens=True)
        if ids.count(processor.image_token_id) != len(plans):
            raise ConfigError(
                f"the tokenizer does not know the image token {processor.image_token!r} (id "
                f"{processor.image_token_id}): give the image processor this tokenizer"
            )
        rest = iter(plans)
        return [
            i
            for token in ids
            for i in (next(rest).ids if token == processor.image_token_id else (token,))
        ]

    def _caption(self, pieces: Sequence[tuple[str, int]], is_text: bool) -> list[Sequence[int]]:
        behind = "\n" if is_text and self._tokenize.adds_prefix else ""
        texts = [without(self._literals, text) for text, _ in pieces]
        asked = [Piece(text, False, None, behind if n else "") for n, text in enumerate(texts)]
        try:
            return self._tokenize.pieces(asked)
        except (TypeError, UnicodeEncodeError) as error:
            raise DataError(f"a caption cannot be tokenised: {error}") from None

    def _too_long(
        self, pieces: Sequence[tuple[str, int]], lengths: list[int], prompt: int
    ) -> DataError:
        longest = int(np.argmax(lengths)) if lengths else 0
        what = f"; the longest piece has {lengths[longest]}: {_short(pieces[longest][0])}"
        return DataError(
            f"prompt and caption have {prompt} + {sum(lengths)} tokens, max_length is "
            f"{self.max_length}{what if lengths else ''}"
        )


def _as_list(sizes: Any) -> list[Size]:
    return [sizes] if isinstance(sizes[0], int) else list(sizes)


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:60] + "...")
