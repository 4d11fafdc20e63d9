"""Cross entropy of the trained tokens of a flat row: shared by every model that writes text.

Logits exist at trained positions only. Of a long row they exist for a part of these at a time: the
head is called once, and inside of the call takes the parts in turn.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

from inlay.core.types import IGNORE_INDEX, StepOutput
from inlay.models.head import after_head, head_of
from inlay.models.lm import without_adapter

LogitsAt = Callable[[torch.Tensor], torch.Tensor]
LossOf = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]

LOGITS_AT_ONCE = 2**27
"""How many logits exist at a time, 512 MB in float32: 883 tokens at a vocabulary of 151,936."""


def next_token_loss(
    llm: Any,
    logits_at: LogitsAt,
    labels: torch.Tensor,
    trained_positions: torch.Tensor | None = None,
) -> StepOutput:
    """Return the cross entropy, in nats, summed over the trained tokens.

    Args:
        llm: the transformers model that ``logits_at`` runs, adapters in place.
        logits_at: runs the model and returns its logits ``[K, vocabulary]`` at the positions
            int64 ``[K]`` that it is given; called once.
        labels: int64 ``[1, N]``, ``IGNORE_INDEX`` where untrained, not shifted.
        trained_positions: int64 ``[K]``, positions whose next token has a label; None finds them,
            which on a GPU waits for the device.
    """
    positions, targets = trained_tokens(labels, trained_positions)
    return StepOutput(summed_loss(llm, logits_at, positions, targets), len(positions))


def trained_tokens(
    labels: torch.Tensor, trained_positions: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return positions ``[K]`` with a loss, and the tokens ``[K]`` that they predict.

    Args: as of :func:`next_token_loss`.
    """
    targets = labels[0, 1:]  # position t predicts token t + 1
    trained = trained_positions
    if trained is None:
        trained = (targets != IGNORE_INDEX).nonzero(as_tuple=True)[0]
    return trained, targets[trained]


def summed_loss(
    llm: Any, logits_at: LogitsAt, positions: torch.Tensor, targets: torch.Tensor
) -> torch.Tensor:
    """Return the cross entropy, in nats, of ``targets`` int64 ``[K]``, summed in float32.

    Args: as of :func:`next_token_loss`; ``positions`` int64 ``[K]``. Without any (a stand-in) the
        whole model runs all the same, so that ranks stay in step; the loss is 0.
    """
    if not len(positions):
        return logits_at(positions.new_zeros(1)).float().sum() * 0.0
    with _head_sums(llm, targets) as sums:
        logits = logits_at(positions)
    if sums:
        return sums[0]
    return F.cross_entropy(logits.float(), targets, reduction="sum")


@contextmanager
def _head_sums(llm: Any, targets: torch.Tensor) -> Iterator[list[torch.Tensor]]:
    """Inside, the head of ``llm`` computes the loss from its hidden states ``[1, K, width]``.

    The head is still called as the library calls it, once, so that whatever hooks on to the module
    (gathered weights, sharded gradients) works. Yields the list that the loss will be in; it stays
    empty where all logits fit at once, or where the head is called in a way that is not known.
    """
    sums: list[torch.Tensor] = []
    model = without_adapter(llm)
    vocabulary = model.config.get_text_config().vocab_size
    chunk = max(1, LOGITS_AT_ONCE // vocabulary)
    head = head_of(model) if len(targets) > chunk else None
    if head is None:
        yield sums
        return
    plain, own = head.forward, head.__dict__.get("forward")

    def loss_of(hidden: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        logits = after_head(model, plain(hidden[None]))[0]
        return F.cross_entropy(logits.float(), wanted, reduction="sum")

    def forward(hidden: torch.Tensor) -> torch.Tensor:
        if hidden.shape[:2] != (1, len(targets)):
            return plain(hidden)
        trained = [p for p in head.parameters() if p.requires_grad]
        loss = _in_chunks(loss_of, hidden[0], targets, chunk, trained)
        # As wide as logits: the library goes on with it, and what it makes of it is left alone.
        return loss.expand(1, 1, vocabulary).clone()

    def keep(module: nn.Module, args: Any, out: torch.Tensor) -> None:
        if out.shape[1] == 1:
            sums.append(out[0, 0, 0].clone())

    head.forward = forward
    handle = head.register_forward_hook(keep)
    try:
        yield sums
    finally:
        handle.remove()
        if own is None:
            del head.forward
        else:
            head.forward = own


def _in_chunks(
    loss_of: LossOf,
    hidden: torch.Tensor,
    targets: torch.Tensor,
    chunk: int,
    parameters: list[nn.Parameter],
) -> torch.Tensor:
    """Sum ``loss_of`` over chunks of ``hidden [K, width]`` and ``targets [K]``."""
    kind = hidden.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else hidden.dtype
    if torch.is_grad_enabled() and dtype != torch.float16:
        return _EarlyGradients.apply(loss_of, targets, chunk, hidden, *parameters)
    # The gradients of float16 need the loss scale, which is known in backward only.
    pairs = zip(hidden.split(chunk), targets.split(chunk), strict=True)
    return torch.stack([checkpoint(loss_of, *pair, use_reentrant=False) for pair in pairs]).sum()


class _EarlyGradients(torch.autograd.Function):
    """A sum of losses whose gradients are computed with it: no logits are kept nor made twice."""

    @staticmethod
    def forward(
        ctx: Any,
        loss_of: LossOf,
        targets: torch.Tensor,
        chunk: int,
        hidden: torch.Tensor,
        *parameters: nn.Parameter,
    ) -> torch.Tensor:
        total = torch.zeros((), device=hidden.device)
        of_hidden: list[torch.Tensor] = []
        of_weights: list[torch.Tensor] = []
        for part, wanted in zip(hidden.split(chunk), targets.split(chunk), strict=True):
            with torch.enable_grad():
                leaf = part.detach().requires_grad_()
                loss = loss_of(leaf, wanted)
            first, *others = torch.autograd.grad(loss, [leaf, *parameters])
            total += loss.detach()
            of_hidden.append(first)
            if of_weights:
                torch._foreach_add_(of_weights, [g.float() for g in others])
            else:
                of_weights = [g.float() for g in others]
        ctx.save_for_backward(torch.cat(of_hidden), *of_weights)
        ctx.dtypes = [p.dtype for p in parameters]
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, scale: torch.Tensor) -> Any:
        of_hidden, *of_weights = ctx.saved_tensors
        scaled = [(g * scale).to(dtype) for g, dtype in zip(of_weights, ctx.dtypes, strict=True)]
        return None, None, None, of_hidden * scale, *scaled
