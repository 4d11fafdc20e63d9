"""A conversation with a causal language model: history, prompt tokens, streamed answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from transformers import GenerationConfig, StoppingCriteria, StoppingCriteriaList

from inlay.chat.stream import TextStream
from inlay.core.errors import ModelError
from inlay.core.types import Message
from inlay.data.chat import ChatEncoder


class ChatSession:
    """Keeps the history of one conversation and answers in it.

    Prompts have the tokens that training saw. A tokenizer without a chat template, and no
    ``template``, means *completion*: each text is continued as it is, on its own, after the
    tokenizer's special tokens (a BOS, where it has one).

    Args:
        model: a causal language model of transformers, or a PEFT model around one.
        tokenizer: its tokenizer.
        template: a prompt template (its name, or a dict with SYSTEM, INSTRUCTION, ...); None
            takes the tokenizer's own chat template.
        system: the system text.
        stop_words: texts that end an answer, beside the template's own.
        temperature: 0 takes the most probable token (greedy).
        top_k: number of most probable tokens to draw from; 0 for all.
        top_p: draw from the smallest set of tokens with this probability, in (0, 1].
        repetition_penalty: 1 for none.
        max_new_tokens: longest answer in tokens.
        seed: the same seed and the same inputs give the same answers. The process's own random
            state is neither used nor changed.
        on_notice: called with a sentence when the history had to be dropped.

    Raises:
        ModelError: ``system`` without a template that could carry it.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        template: str | Mapping[str, Any] | None = None,
        system: str | None = None,
        stop_words: Sequence[str] = (),
        *,
        temperature: float = 0.1,
        top_k: int = 40,
        top_p: float = 0.75,
        repetition_penalty: float = 1.0,
        max_new_tokens: int = 2048,
        seed: int = 0,
        on_notice: Callable[[str], None] | None = None,
    ) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.system = system
        self.temperature = temperature
        self.top_k = top_k
        self.top_p = top_p
        self.repetition_penalty = repetition_penalty
        self.max_new_tokens = max_new_tokens
        self.seed = seed
        self.on_notice = on_notice
        self.num_replies = 0
        chats = template is not None or bool(getattr(tokenizer, "chat_template", None))
        self.encoder = ChatEncoder(tokenizer, template) if chats else None
        if system and self.encoder is None:
            raise ModelError(
                "a system text needs a chat template, and this tokenizer has none. "
                "Name one with --prompt-template."
            )
        self.max_positions = _max_positions(model)
        self.stop_ids, self.stop_words = self._stops(stop_words)
        self.history: list[Message] = []
        self.reset()

    @property
    def completes(self) -> bool:
        """Whether texts are continued as they are, for want of a chat template."""
        return self.encoder is None

    def reset(self) -> None:
        """Forget the conversation; the system text stays."""
        self.history = [Message("system", self.system)] if self.system else []

    def reply(self, text: str, on_text: Callable[[str], None] | None = None) -> str:
        """Answer ``text`` and remember both.

        Args:
            text: what the user says, or in completion mode what to continue (it may be empty).
            on_text: called with each piece of the answer as it comes. Pieces are whole characters
                and never part of a stop word; joined they are the answer.

        Raises:
            ModelError: the text alone is longer than the model's context.
            KeyboardInterrupt: passed on; what was said so far is remembered.
        """
        ids = self._fitting_prompt(text)
        context = ids if self.completes else ()
        stream = TextStream(self.tokenizer, self.stop_words, context, on_text)
        try:
            num_tokens = self._generate(ids, stream)
        except KeyboardInterrupt:
            self._remember(text, stream.finish())
            raise
        answer = stream.finish()
        self._remember(text, answer)
        if self.history and self.max_positions and num_tokens >= self.max_positions:
            self._forget()
        return answer

    def _remember(self, text: str, answer: str) -> None:
        self.num_replies += 1
        if not self.completes:
            self.history += [Message("user", text), Message("assistant", answer)]

    def _fitting_prompt(self, text: str) -> list[int]:
        """Prompt tokens that leave room for an answer, without the history if need be."""
        ids = self._prompt_ids(text)
        if self.max_positions is None or len(ids) < self.max_positions:
            return ids
        if any(m.role != "system" for m in self.history):
            self._forget()
            ids = self._prompt_ids(text)
        if len(ids) >= self.max_positions:
            raise ModelError(
                f"the text has {len(ids)} tokens and leaves no room for an answer: the model's "
                f"context is {self.max_positions} tokens. Shorten the text."
            )
        return ids

    def _prompt_ids(self, text: str) -> list[int]:
        if self.encoder is not None:
            return list(self.encoder.prompt_ids([*self.history, Message("user", text)]))
        ids = list(self.tokenizer(text).input_ids)
        if ids:
            return ids
        starts = [self.tokenizer.bos_token_id, self.tokenizer.eos_token_id]
        known = [token for token in starts if token is not None]
        if not known:
            raise ModelError("an empty text cannot be continued: the tokenizer has no BOS token")
        return known[:1]

    def _generate(self, ids: list[int], stream: TextStream) -> int:
        """Generate into ``stream``; return the number of tokens, the prompt's included."""
        row = torch.tensor([ids], device=self.model.device)
        was_training = self.model.training
        self.model.eval()
        cuda = [row.device] if row.is_cuda else []
        try:
            with torch.random.fork_rng(devices=cuda), torch.inference_mode():
                torch.manual_seed(self.seed + self.num_replies)
                out = self.model.generate(
                    input_ids=row,
                    attention_mask=torch.ones_like(row),
                    generation_config=self._generation_config(len(ids)),
                    stopping_criteria=StoppingCriteriaList([_Watch(stream, self.stop_ids)]),
                )
        finally:
            self.model.train(was_training)
        return out.shape[1]

    def _generation_config(self, num_prompt: int) -> GenerationConfig:
        room = self.max_positions - num_prompt if self.max_positions else self.max_new_tokens
        samples = self.temperature > 0
        pad = self.tokenizer.pad_token_id
        return GenerationConfig(
            max_new_tokens=min(self.max_new_tokens, room),
            do_sample=samples,
            # Values of transformers' own when greedy: anything else is warned about.
            temperature=self.temperature if samples else 1.0,
            top_k=self.top_k if samples else 50,
            top_p=self.top_p if samples else 1.0,
            repetition_penalty=self.repetition_penalty,
            eos_token_id=self.stop_ids or None,
            pad_token_id=pad if pad is not None else (self.stop_ids or [0])[0],
            use_cache=True,
        )

    def _stops(self, words: Sequence[str]) -> tuple[list[int], list[str]]:
        """Stop token ids, and the stop words that are ordinary text."""
        ids = _as_list(self.model.generation_config.eos_token_id)
        ids += _as_list(self.tokenizer.eos_token_id)
        texts = list(words)
        if self.encoder is not None:
            ids += self.encoder.stop_token_ids
            texts += self.encoder.stop_words
        added = self.tokenizer.get_added_vocab()
        ids += [added[word] for word in texts if word in added]
        return sorted(set(ids)), [word for word in dict.fromkeys(texts) if word not in added]

    def _forget(self) -> None:
        self.reset()
        if self.on_notice:
            self.on_notice(
                f"The history was dropped: the model's context of {self.max_positions} tokens is "
                "full."
            )


class _Watch(StoppingCriteria):
    """Feeds each new token to the stream and ends generation at a stop word."""

    def __init__(self, stream: TextStream, stop_ids: list[int]) -> None:
        self.stream = stream
        self.stop_ids = set(stop_ids)

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        token = int(input_ids[0, -1])
        stopped = token not in self.stop_ids and self.stream.push(token)
        return torch.tensor([stopped], device=input_ids.device)


def _max_positions(model: Any) -> int | None:
    return getattr(model.config.get_text_config(), "max_position_embeddings", None)


def _as_list(ids: int | list[int] | None) -> list[int]:
    if ids is None:
        return []
    return [ids] if isinstance(ids, int) else list(ids)
