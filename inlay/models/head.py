"""The head of a language model, and what its family does with the logits."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


def head_of(model: Any) -> nn.Module | None:
    """Return the module that makes logits of hidden states, or None.

    None, too, where it is no direct part of ``model`` beside the decoder (see ``after_head``), and
    for a head of several modules whose weights DeepSpeed gathers at each of their calls: every rank
    must make as many.

    Args:
        model: a transformers model, adapters in place.
    """
    head = model.get_output_embeddings()
    beside = getattr(model, model.base_model_prefix, None) is not None
    if not beside or not any(part is head for part in model.children()):
        return None
    gathered = any(hasattr(p, "ds_id") for p in head.parameters())
    return None if gathered and any(head.children()) else head


def after_head(model: Any, logits: torch.Tensor) -> torch.Tensor:
    """Return what the library's forward makes of the head's logits: scaled, capped or cut ones.

    Its own code runs, on a stand-in of ``model`` that shares everything with it except for the
    decoder, which does nothing, and the head, which returns ``logits [1, K, vocabulary]``.
    """
    head = model.get_output_embeddings()
    twin = object.__new__(type(model))
    twin.__dict__.update(model.__dict__)
    parts: dict[str, Any] = {n: m for n, m in model._modules.items() if m is not head}
    name = next(n for n, m in model._modules.items() if m is head)
    parts[name] = lambda hidden: logits
    width = model.config.get_text_config().hidden_size
    parts[model.base_model_prefix] = _Idle(model.base_model, logits.new_zeros(1, 1, width))
    twin.__dict__["_modules"] = parts
    return type(model).forward(twin, inputs_embeds=logits).logits


class _Idle:
    """In the place of a decoder: has what it has, and gives out ``hidden``."""

    def __init__(self, decoder: nn.Module, hidden: torch.Tensor) -> None:
        self.decoder, self.hidden = decoder, hidden

    def __call__(self, *args: Any, **kwargs: Any) -> _Output:
        return _Output(self.hidden)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.decoder, name)


class _Output:
    """The output of a decoder that has nothing but hidden states."""

    def __init__(self, hidden: torch.Tensor) -> None:
        self.last_hidden_state = hidden

    def __getitem__(self, place: int) -> torch.Tensor:
        return self.last_hidden_state

    def __getattr__(self, name: str) -> None:
        return None
