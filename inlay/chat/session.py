"""A conversation with a causal language model: history, prompt tokens, streamed answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from transformers import GenerationConfig, StoppingCriteria, StoppingCriteriaList

from inlay.chat.pictures import Pictures, behind_pictures
from inlay.chat.stream import TextStream
from inlay.core.errors import ModelError
from inlay.core.types import IMAGE_MARK, ImageProcessor, Message
from inlay.data.chat import ChatEncoder

if TYPE_CHECKING:
    from PIL.Image import Image


class ChatSession:
    """Keeps the history of one conversation, pictures included, and answers in it.

    Prompts have the tokens that training saw. A tokenizer without a chat template, and no
    ``template``, means *completion*: each text is continued as it is, on its own, after the
    tokenizer's special tokens (a BOS, where it has one).

    Args:
        model: a causal language model of transformers, a PEFT model around one, or, for pictures,
            a model of Inlay with ``llm`` and ``generate``.
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
        image_processor: of a model with eyes.
        images: RGB pictures that stand before the first text of every conversation.

    Attributes:
        should_stop: asked after each token whether the answer ends there. What it raises ends the
            answer, too, and the turn is forgotten.

    Raises:
        ModelError: ``system`` or ``images`` without a template that could carry it, or ``images``
            without an image processor.
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
        image_processor: ImageProcessor | None = None,
        images: Sequence[Image] = (),
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
        self.should_stop = _never
        self.num_replies = 0
        self.template = template
        self.first_images = list(images)
        self.pictures = Pictures(image_processor)
        chats = template is not None or bool(getattr(tokenizer, "chat_template", None))
        self.encoder = ChatEncoder(tokenizer, template, image_processor) if chats else None
        if system and self.encoder is None:
            raise ModelError(
                "a system text needs a chat template, and this tokenizer has none. "
                "Name one with --prompt-template."
            )
        if images:
            self._check_pictures()
        self.llm = getattr(model, "llm", model)
        self.max_positions = _max_positions(self.llm)
        self.stop_ids, self.stop_words = self._stops(stop_words)
        self.history: list[Message] = []
        self.reset()

    @property
    def completes(self) -> bool:
        """Whether texts are continued as they are, for want of a chat template."""
        return self.encoder is None

    def reset(self) -> None:
        """Forget the conversation; the system text and the first pictures stay."""
        self.history = [Message("system", self.system)] if self.system else []

    def reply(
        self,
        text: str,
        on_text: Callable[[str], None] | None = None,
        images: Sequence[Image] = (),
        prefix: str = "",
    ) -> str:
        """Answer ``text`` and remember both.

        Args:
            text: what the user says, or in completion mode what to continue (it may be empty).
            on_text: called with each piece of the answer as it comes. Pieces are whole characters
                and never part of a stop word; joined they are the answer.
            images: RGB pictures that come with this text.
            prefix: how the answer begins; it is not part of what is returned.

        Raises:
            ModelError: the text alone is longer than the model's context, or the model cannot see.
            KeyboardInterrupt: passed on; what was said so far is remembered.
        """
        if images:
            self._check_pictures()
        text, ids = self._fitting_prompt(text, list(images))
        if prefix:
            ids = [*ids, *self.tokenizer.encode(prefix, add_special_tokens=False)]
        context = ids if self.completes else ()
        stream = TextStream(self.tokenizer, self.stop_words, context, on_text)
        try:
            tokens = self._generate(ids, stream)
        except KeyboardInterrupt:
            self._remember(text, prefix + stream.finish())
            raise
        answer = stream.finish()
        self._remember(text, prefix + answer)
        is_full = self.max_positions and len(ids) + len(tokens) >= self.max_positions
        if self.history and is_full:
            self._forget()
        return answer

    def _remember(self, text: str, answer: str) -> None:
        self.num_replies += 1
        if not self.completes:
            answer = answer.replace(IMAGE_MARK, "")
            self.history += [Message("user", text), Message("assistant", answer)]

    def _fitting_prompt(self, text: str, images: list[Image]) -> tuple[str, list[int]]:
        """The text behind its pictures, and the prompt's tokens, which leave room for an answer,
        without the history if need be."""
        shown, ids = self._prompt(text, images)
        if self.max_positions is None or len(ids) < self.max_positions:
            return shown, ids
        if any(m.role != "system" for m in self.history):
            self._forget()
            shown, ids = self._prompt(text, images)
        if len(ids) >= self.max_positions:
            raise ModelError(
                f"the text has {len(ids)} tokens and leaves no room for an answer: the model's "
                f"context is {self.max_positions} tokens. Shorten the text."
            )
        return shown, ids

    def _prompt(self, text: str, images: list[Image]) -> tuple[str, list[int]]:
        # No more than the history shows: those of a prompt that did not fit are dropped.
        self.pictures.keep(sum(m.content.count(IMAGE_MARK) for m in self.history))
        text = text.replace(IMAGE_MARK, "")
        if not any(m.role != "system" for m in self.history):
            images = self.first_images + images
        if images:
            self.pictures.add(images)
            processor = self.pictures.processor
            assert processor is not None
            text = behind_pictures(text, len(images), processor, self.template)
        return text, self._prompt_ids(text)

    def _check_pictures(self) -> None:
        if self.pictures.processor is None:
            raise ModelError("this model reads text only: it cannot be shown a picture")
        if self.encoder is None:
            raise ModelError(
                "a picture needs a chat template, and this tokenizer has none. "
                "Name one with --prompt-template."
            )

    def _prompt_ids(self, text: str) -> list[int]:
        if self.encoder is not None:
            messages = [*self.history, Message("user", text)]
            return list(self.encoder.prompt_ids(messages, self.pictures.plans()))
        ids = list(self.tokenizer(text).input_ids)
        if ids:
            return ids
        starts = [self.tokenizer.bos_token_id, self.tokenizer.eos_token_id]
        known = [token for token in starts if token is not None]
        if not known:
            raise ModelError("an empty text cannot be continued: the tokenizer has no BOS token")
        return known[:1]

    def _generate(self, ids: list[int], stream: TextStream) -> list[int]:
        """Generate into ``stream``; return the new tokens."""
        row = torch.tensor([ids], device=self.model.device)
        was_training = self.model.training
        self.model.eval()
        cuda = [row.device] if row.is_cuda else []
        watch = _Watch(stream, self.stop_ids, self.should_stop)
        try:
            with torch.random.fork_rng(devices=cuda), torch.inference_mode():
                torch.manual_seed(self.seed + self.num_replies)
                self.model.generate(
                    input_ids=row,
                    attention_mask=torch.ones_like(row),
                    generation_config=self._generation_config(len(ids)),
                    stopping_criteria=StoppingCriteriaList([watch]),
                    **self.pictures.inputs(ids),
                )
        finally:
            self.model.train(was_training)
        return watch.tokens

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
        ids = _as_list(self.llm.generation_config.eos_token_id)
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
    """Feeds each new token to the stream and ends generation at a stop word, or when asked to."""

    def __init__(
        self, stream: TextStream, stop_ids: list[int], should_stop: Callable[[], bool]
    ) -> None:
        self.stream = stream
        self.stop_ids = set(stop_ids)
        self.should_stop = should_stop
        self.tokens: list[int] = []

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        token = int(input_ids[0, -1])
        self.tokens.append(token)
        stopped = token not in self.stop_ids and self.stream.push(token)
        return torch.tensor([self.should_stop() or stopped], device=input_ids.device)


def _never() -> bool:
    return False


def _max_positions(model: Any) -> int | None:
    return getattr(model.config.get_text_config(), "max_position_embeddings", None)


def _as_list(ids: int | list[int] | None) -> list[int]:
    if ids is None:
        return []
    return [ids] if isinstance(ids, int) else list(ids)
