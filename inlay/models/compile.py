"""Regional compilation: the block of a transformer is compiled once, for all its layers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache, partial
from typing import Any

import torch
from torch import nn
from transformers import AttentionInterface
from transformers.modeling_layers import GradientCheckpointingLayer

from inlay.models import attention
from inlay.models.grounding import recording


def compile_blocks(model: nn.Module) -> int:
    """Compile the transformer blocks of ``model`` in place; its names and its state stay.

    Blocks of one class share their code, whatever their weights and the length of the row. What is
    recomputed in backward is compiled, too. Dropout draws what it draws uncompiled.

    Args:
        model: holds transformers models, adapters already in place.

    Returns:
        The number of compiled blocks; 0 where there are none to be found.
    """
    hide_from_compiler()
    blocks = list(_blocks(model))
    for block in blocks:
        block.forward = partial(_forward, block)
    return len(blocks)


def _blocks(module: nn.Module) -> Iterator[nn.Module]:
    """The layers that the library can recompute in backward, the outermost ones."""
    for child in module.children():
        if isinstance(child, GradientCheckpointingLayer):
            yield child
        else:
            yield from _blocks(child)


def _forward(block: Any, *args: Any, **kwargs: Any) -> Any:
    """Run a block compiled, below its checkpoint: torch leaves out what is inside of one."""
    if kwargs.get("past_key_values") is not None:  # generation: every length is another program
        return type(block).forward(block, *args, **kwargs)
    run = _compiled(type(block).forward.__wrapped__)
    if block.gradient_checkpointing and block.training:
        return block._gradient_checkpointing_func(partial(run, block, **kwargs), *args)
    return run(block, *args, **kwargs)


@cache
def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    # Sizes are symbols from the start: no row compiles anew because it is longer than the last.
    return torch.compile(function, dynamic=True, options={"fallback_random": True})


def hide_from_compiler() -> None:
    """Keep ``torch.compile`` out of the attention: what it runs depends on the document borders.

    Traced, it would be compiled anew for every row, and the tracer fails on some of them.
    """
    for name, function in (
        (attention.NAME, attention.packed_attention),
        (recording.NAME, recording.capture_attention),
    ):
        AttentionInterface.register(name, torch.compiler.disable(function))
