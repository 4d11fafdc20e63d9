"""What evaluation asks: a model that answers one question, or says how likely an answer is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from inlay.chat.open import Opened
from inlay.chat.pictures import Pictures, behind_pictures
from inlay.chat.session import ChatSession
from inlay.core.errors import ModelError
from inlay.core.types import Conversation, ImageRef, Message, Sample
from inlay.data.collate import collate

if TYPE_CHECKING:
    from collections.abc import Sequence

    from PIL.Image import Image


class Answerer:
    """Answers questions greedily, each in a conversation of its own.

    Args:
        opened: model, tokenizer and image processor.
        template: of the chat: its name or a dict; None for the tokenizer's own.
        stop_words: texts that end an answer, beside the template's own.
    """

    def __init__(
        self, opened: Opened, template: Any = None, stop_words: Sequence[str] = ()
    ) -> None:
        self.template = template
        self.processor = opened.image_processor
        self.model: Any = opened.model
        self.session = ChatSession(
            opened.model,
            opened.tokenizer,
            template,
            stop_words=stop_words,
            temperature=0.0,
            image_processor=opened.image_processor,
        )

    def __call__(
        self, pictures: list[Image], text: str, max_new_tokens: int, prefix: str = ""
    ) -> str:
        """Return the answer to ``text`` behind RGB ``pictures``, or what follows its ``prefix``.

        Raises:
            ModelError: the model cannot see, or the question is longer than its context.
        """
        self.session.reset()
        self.session.max_new_tokens = max_new_tokens
        return self.session.reply(text, images=pictures, prefix=prefix)

    def score(self, pictures: list[Image], text: str, continuation: str) -> tuple[float, bool]:
        """Return how unlikely an answer is, and whether it is the greedy one.

        Returns:
            Negative log-likelihood in nats, summed over its tokens and those that end it.

        Raises:
            ModelError: the model has no chat template, or cannot see.
        """
        import torch

        sample, inputs = self._sample(pictures, text, continuation.strip())
        batch = collate([sample])
        batch.inputs.update(inputs)
        model = self._with_loss()
        with torch.inference_mode():
            loss = float(model(**batch.to(model.device).inputs).loss_sum)
        said = self(pictures, text, int(sample.mask.sum()))
        return loss, said.strip() == continuation.strip()

    def _sample(
        self, pictures: list[Image], text: str, continuation: str
    ) -> tuple[Sample, dict[str, Any]]:
        """The question and the answer as training would have them, and the pictures' inputs."""
        encoder = self.session.encoder
        if encoder is None:
            raise ModelError("an answer can be scored only with a chat template: name one")
        shown = Pictures(self.processor)
        if pictures:
            if self.processor is None:
                raise ModelError("this model reads text only: it cannot be shown a picture")
            shown.add(pictures)
            text = behind_pictures(text, len(pictures), self.processor, self.template)
        turns = [Message("user", text), Message("assistant", continuation, trained=True)]
        conversation = Conversation(turns, images=[ImageRef() for _ in pictures])
        (sample,) = encoder.encode([conversation], [shown.plans()])
        return sample, shown.inputs(sample.ids.tolist())

    def _with_loss(self) -> Any:
        """The model as one whose ``forward`` returns a loss; those with eyes have it already."""
        if self.processor is None and not hasattr(self.model, "llm"):
            from inlay.models.sft import SupervisedFinetune

            self.model = SupervisedFinetune(self.model, use_activation_checkpointing=False).eval()
        return self.model
