"""Attention rows of the tokens that a model writes, kept step by step during ``generate``."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from inlay.core.errors import ModelError
from inlay.models.grounding.capture import say_window
from inlay.models.grounding.recording import (
    AttentionCall,
    Queries,
    layers_with_rows,
    recording,
)


@dataclass
class DecodeRows:
    """What each generated token looks at; filled when ``capture_decoding`` ends.

    A token is seen when it goes in again to give the next one: the last of an answer (mostly the
    end-of-text token) is not, so T is one less than the number of generated tokens.

    Attributes:
        maps: float32 ``[T, C, K]`` attention probabilities at the image tokens, channels as in
            ``Seen``; ``merge_rows`` joins those of a phrase. On the CPU: a token of LLaVA-1.5-7B
            takes 2.4 MB, too much for a GPU to keep through a long answer.
        hidden: ``[L, T, D]`` as in ``Seen``.
        layers: numbers of the layers in ``maps``.
    """

    maps: Tensor = field(default_factory=lambda: torch.empty(0))
    hidden: Tensor = field(default_factory=lambda: torch.empty(0))
    layers: tuple[int, ...] = ()


@contextmanager
def capture_decoding(decoder: Any, columns: Tensor) -> Iterator[DecodeRows]:
    """Capture the steps of one ``generate`` with a cache, which starts empty.

    Args:
        decoder: the text model inside the model that generates.
        columns: int64 ``[K]`` places of the image tokens in the prompt.

    Raises:
        ModelError: several sequences or beams, or attention that is not of the library's
            interface.
    """
    recorder = _Steps(decoder, columns)
    rows = DecodeRows()
    with recording(decoder, recorder):
        yield rows
    rows.maps, rows.hidden, rows.layers = recorder.result()


class _Steps:
    """Records every call with a single query: its row at the image tokens."""

    def __init__(self, decoder: Any, columns: Tensor) -> None:
        self.name, self.columns = type(decoder).__name__, columns
        self.layers, self.num_layers = layers_with_rows(decoder), len(decoder.layers)
        self.lengths: defaultdict[int, int] = defaultdict(int)
        self.step: list[Tensor] = []  # [H, K] of the layers so far
        self.rows: list[Tensor] = []  # [C, K] of each token
        self.states: defaultdict[int, list[Tensor]] = defaultdict(list)
        self.heads = 0

    def attention(self, layer: int, call: AttentionCall) -> None:
        sequences, self.heads, tokens, _ = call.query.shape
        if sequences > 1:
            raise ModelError(
                f"decode steps are captured for one sequence without beams, found {sequences}"
            )
        self.lengths[layer] += tokens
        if tokens > 1:
            return  # the prompt
        keys = call.key.shape[2]
        place = self.columns.new_zeros(1, device=call.key.device)
        row_H1N = call.rows(Queries(batch=0, places=place, first=0, start=0, stop=keys))
        # The cache of a layer with a window has let go of the first keys.
        gone = max(0, self.lengths[layer] - keys)
        if gone:
            say_window(self.name, call.window)
        self.columns = self.columns.to(call.key.device)
        columns = self.columns - gone
        row_HK = row_H1N[:, 0].index_select(1, columns.clamp(min=0))
        self.step.append(row_HK.masked_fill_(columns < 0, 0.0))
        if layer == self.layers[-1]:
            self.rows.append(torch.cat(self.step).cpu())
            self.step.clear()

    def hidden(self, layer: int, states: Tensor) -> None:
        # Of the prompt nothing is kept: not even a view, which would hold all of its states.
        self.states[layer].append(states[0] if states.shape[1] == 1 else states[0, :0].clone())

    def result(self) -> tuple[Tensor, Tensor, tuple[int, ...]]:
        if set(self.lengths) != set(self.layers):
            raise ModelError(
                f"{self.name} was not seen at work: it did not run, or not every layer takes its "
                "attention from transformers' AttentionInterface"
            )
        channels = len(self.layers) * self.heads
        maps = torch.empty(len(self.rows), channels, len(self.columns))
        for step in reversed(range(len(maps))):
            maps[step] = self.rows.pop()  # each is let go of as it is copied
        hidden = [torch.cat(self.states[layer]) for layer in range(self.num_layers)]
        return maps, torch.stack(hidden), self.layers
