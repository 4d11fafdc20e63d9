"""Let a model in training answer one question."""

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
) -> str:
    """Return prompt and greedy answer, decoded with their special tokens.

    Args:
        model: has ``generate(input_ids, **kwargs)``.
        template: a named template's dict, or None for the tokenizer's own.
        system, text: system and user turn; an empty system turn is left out.
        max_new_tokens: length of the answer, in tokens; the model's context length bounds it, too.
    """
    import torch

    from inlay.core.types import Message
    from inlay.data.chat import ChatEncoder

    encoder = ChatEncoder(tokenizer, template)
    turns = [Message("system", system)] if system else []
    ids = encoder.prompt_ids([*turns, Message("user", text)])
    context = getattr(model.llm.config, "max_position_embeddings", None)
    if context:
        ids = ids[-(context - 1) :]
        max_new_tokens = min(max_new_tokens, context - len(ids))
    out = model.generate(
        torch.tensor([ids]),
        max_new_tokens=max_new_tokens,
        do_sample=False,
        eos_token_id=encoder.stop_token_ids or None,
        pad_token_id=tokenizer.pad_token_id or tokenizer.eos_token_id or 0,
        **({"stop_strings": list(stop_words), "tokenizer": tokenizer} if stop_words else {}),
    )
    return tokenizer.decode(out[0])
