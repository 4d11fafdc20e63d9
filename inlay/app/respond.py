"""Let a model in training answer one question, about a picture or not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def respond(
    model: Any,
    tokenizer: Any,
    template: Any,
    system: str,
    text: str,
    max_new_tokens: int,
    stop_words: Sequence[str] = (),
    image: str | None = None,
    image_processor: Any = None,
) -> str:
    """Return prompt and greedy answer, decoded with their special tokens; in the prompt the tokens
    of a picture read ``<image>``.

    Args:
        model: has ``generate(input_ids, **kwargs)``.
        template: a named template's dict, or None for the tokenizer's own.
        system, text: system and user turn; an empty system turn is left out.
        max_new_tokens: length of the answer, in tokens; the model's context length bounds it, too.
        image: a picture to show before ``text``: file or ``http(s)`` address.
        image_processor: of a model with eyes.

    Raises:
        DataError: the picture cannot be read.
    """
    import torch

    from inlay.chat.pictures import Pictures, behind_pictures, read_picture
    from inlay.core.types import Message
    from inlay.data.chat import ChatEncoder

    encoder = ChatEncoder(tokenizer, template, image_processor)
    pictures = Pictures(image_processor)
    if image is not None:
        pictures.add([read_picture(image)])
        text = behind_pictures(text, 1, image_processor, template)
    turns = [Message("system", system)] if system else []
    ids = encoder.prompt_ids([*turns, Message("user", text)], pictures.plans())
    context = getattr(model.llm.config.get_text_config(), "max_position_embeddings", None)
    if context:
        if not pictures:
            ids = ids[-(context - 1) :]
        max_new_tokens = max(1, min(max_new_tokens, context - len(ids)))
    out = model.generate(
        torch.tensor([ids]),
        max_new_tokens=max_new_tokens,
        do_sample=False,
        synced_gpus=False,  # this rank asks alone
        eos_token_id=encoder.stop_token_ids or None,
        pad_token_id=tokenizer.pad_token_id or tokenizer.eos_token_id or 0,
        **pictures.inputs(ids),
        **({"stop_strings": list(stop_words), "tokenizer": tokenizer} if stop_words else {}),
    )
    return _readable(out[0].tolist(), tokenizer, image_processor)


def _readable(ids: list[int], tokenizer: Any, processor: Any) -> str:
    """Decode with each run of image tokens, whose ids the tokenizer may not know, as one mark."""
    if processor is None:
        return tokenizer.decode(ids)
    import itertools

    runs = itertools.groupby(ids, lambda token: token == processor.image_token_id)
    return "".join(
        processor.image_token if is_image else tokenizer.decode(list(run)) for is_image, run in runs
    )
