"""Where the answers stand in the text that a tokenizer's chat template renders."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from inlay.core.errors import ConfigError, DataError, did_you_mean
from inlay.core.types import IMAGE_MARK, Message
from inlay.data.picture_text import parts
from inlay.data.templates import PROMPT_TEMPLATE, known_names

_ANSWER = "\ue0a3"  # a private-use character: no template and no text has it


class Answer(NamedTuple):
    """Where an answer stands in the rendered text: ``[start, stop)``, its stop token included."""

    start: int
    stop: int


class AnswerFinder:
    """Renders conversations with the tokenizer's own chat template and finds their answers.

    Args:
        tokenizer: a tokenizer of transformers; it may come without a chat template.
        placeholder: what the template writes for a picture: contents are handed to it as lists of
            parts, and its text has ``IMAGE_MARK`` instead. None: contents are plain strings.

    Attributes:
        source: the chat template, empty if there is none.
    """

    def __init__(self, tokenizer: Any, placeholder: str | None = None) -> None:
        self._tokenizer = tokenizer
        self._placeholder = placeholder
        self.source: str = tokenizer.get_chat_template() if tokenizer.chat_template else ""
        self._asks = "add_generation_prompt" in self.source
        self._generation = bool(re.search(r"\{%-?\s*generation\s*-?%\}", self.source))
        self._stop: tuple[str, str] | None = None

    def render(self, messages: Sequence[Message], ask: bool = False) -> str:
        """Return a conversation's text; ``ask`` adds the generation prompt.

        Raises:
            DataError: the template raises an error.
        """
        try:
            text = self._tokenizer.apply_chat_template(
                self._chat(messages), tokenize=False, add_generation_prompt=ask
            )
        except Exception as error:  # a template may raise anything
            raise DataError(
                f"the tokenizer's chat template refuses the roles or contents of this conversation"
                f" ({', '.join(m.role for m in messages)}): {error}"
            ) from error
        return self._marked(text)

    def _chat(self, messages: Sequence[Message]) -> list[dict[str, Any]]:
        """Messages as the template takes them."""
        if self._placeholder is None:
            return [{"role": m.role, "content": m.content} for m in messages]
        return [{"role": m.role, "content": parts(m.content)} for m in messages]

    def _marked(self, text: str) -> str:
        return text if self._placeholder is None else text.replace(self._placeholder, IMAGE_MARK)

    def answers(self, messages: Sequence[Message]) -> tuple[str, list[Answer]]:
        """Render a conversation; return its text and its answers.

        An answer starts where the template's generation prompt ends: there the model takes over.
        Where that prompt is not a prefix of the text (templates that move or drop earlier parts),
        it starts at its ``{% generation %}`` block, or else at its content.

        Raises:
            DataError: the template raises an error, or an answer is not found.
            ConfigError: as ``end_of_turn``.
        """
        text = self.render(messages)
        indices = [i for i, m in enumerate(messages) if m.role == "assistant"]
        spans = [self._find(text, messages, i) for i in indices]
        limits = [start for start, _ in spans[1:]] + [len(text)]
        answers = []
        for (start, end), limit in zip(spans, limits, strict=True):
            answers.append(Answer(start, end + self._stop_length(text[end:limit])))
        return text, answers

    def _find(self, text: str, messages: Sequence[Message], index: int) -> tuple[int, int]:
        """Return start and end of answer ``index``'s content in ``text``."""
        other = list(messages)
        other[index] = Message("assistant", _ANSWER)
        before, mark, behind = self.render(other).partition(_ANSWER)
        if not mark or not text.endswith(behind):
            raise DataError(
                f"answer {index} is not found in the text of the tokenizer's chat template, which "
                "drops or rewrites it; choose a named one with prompt_template=..."
            )
        content = len(before) if text.startswith(before) else None
        start = self._prompt_end(text, messages, index, content)
        end = len(text) - len(behind)
        if start is None or start > end:
            raise DataError(
                f"the start of answer {index} is not found in the text of the tokenizer's chat "
                "template; choose a named one with prompt_template=..."
            )
        return start, end

    def _prompt_end(
        self, text: str, messages: Sequence[Message], index: int, content: int | None
    ) -> int | None:
        prompt = self.render(messages[:index], ask=True) if index else ""
        # A template that does not know generation prompts may leave out the answer's head.
        is_open = self._asks or content is None or not text[len(prompt) : content].strip()
        if index and is_open and text.startswith(prompt):
            return len(prompt)
        return self._generation_start(messages, index) if self._generation else content

    def _generation_start(self, messages: Sequence[Message], index: int) -> int | None:
        from transformers.utils.chat_template_utils import render_jinja_template

        rendered: Any = render_jinja_template(
            [self._chat(messages)],
            chat_template=self.source,
            return_assistant_tokens_mask=True,
            **self._tokenizer.special_tokens_map,
        )
        (text,), (spans,) = rendered
        number = sum(m.role == "assistant" for m in messages[:index])
        return len(self._marked(text[: spans[number][0]])) if number < len(spans) else None

    def _stop_length(self, tail: str) -> int:
        """Characters up to the end of the stop token, if it opens ``tail``; else 0."""
        gap, stop = self.end_of_turn()
        for lead in (gap, tail[: len(tail) - len(tail.lstrip())]):
            if tail.startswith(lead + stop):
                return len(lead + stop)
        return 0

    def end_of_turn(self) -> tuple[str, str]:
        """Return what the template writes between an answer and its stop token, and that token.

        Raises:
            ConfigError: there is no chat template, it does not render a question and an answer, or
                it writes no stop token.
        """
        if self._stop is None:
            self._stop = self._find_stop()
        return self._stop

    def _find_stop(self) -> tuple[str, str]:
        if not self.source:
            raise ConfigError(_no_template(self._tokenizer))
        chat = [Message("user", "a"), Message("assistant", _ANSWER)]
        try:
            tail = self.render(chat).rpartition(_ANSWER)[2]
        except DataError as error:
            raise ConfigError(f"a question and an answer do not render: {error}") from error
        tokens = {*self._tokenizer.get_added_vocab(), *self._tokenizer.all_special_tokens}
        found = [(tail.find(t), -len(t), t) for t in tokens if t and t in tail]
        if not found:
            raise ConfigError(
                "the tokenizer's chat template has no stop token: after an answer it writes "
                f"{tail!r}, which holds none of the tokenizer's special tokens, so the model would "
                "never learn to stop. Write {{ eos_token }} behind the assistant's content in the "
                f"chat template, or choose one by name with prompt_template=.... {known_names()}"
            )
        position, _, token = min(found)
        return tail[:position], token


def _no_template(tokenizer: Any) -> str:
    name = str(getattr(tokenizer, "name_or_path", "") or "")
    families = {known.split("_")[0].rstrip("0123456789"): known for known in PROMPT_TEMPLATE}
    near = [known for family, known in families.items() if family in name.lower()]
    hint = f" Perhaps '{near[0]}'." if near else did_you_mean(name, PROMPT_TEMPLATE)
    return (
        f"the tokenizer{f' of {name!r}' if name else ''} has no chat template, and no prompt "
        f"template is named. Pass one with prompt_template=....{hint} {known_names()}"
    )
