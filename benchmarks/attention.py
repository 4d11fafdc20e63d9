"""Packed attention in all layers of a model, forward and backward, on one thread.

Against (a) the same loop over documents written by hand in place of the model's attention, and
(b) the dense block mask through SDPA. The loss of all three must be the same.

    python benchmarks/attention.py [--median 300]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from _ratio import best_in_turns, cpu_seconds, header, row
from transformers import AttentionInterface, AttentionMaskInterface, LlamaConfig, LlamaForCausalLM
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

from inlay.models.attention import NAME, document_mask

NUM_TOKENS = 4096
VOCABULARY = 512


def small_llama() -> LlamaForCausalLM:
    """Return 12 layers, 256 wide, with random weights."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=256,
        intermediate_size=688,
        num_hidden_layers=12,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=NUM_TOKENS,
        use_cache=False,
    )
    return LlamaForCausalLM(config).train()


def document_starts(median: int) -> torch.Tensor:
    """Return int32 ``[D + 1]``: lognormal lengths (``median`` tokens) that fill the row."""
    lengths = np.random.default_rng(0).lognormal(np.log(median), 0.8, 1000).astype(np.int64) + 8
    ends = np.minimum(np.cumsum(lengths), NUM_TOKENS)
    ends = ends[: int(np.argmax(ends == NUM_TOKENS)) + 1]
    return torch.tensor([0, *ends.tolist()], dtype=torch.int32)


def block_mask(starts: torch.Tensor) -> torch.Tensor:
    """Return bool ``[1, 1, N, N]``: same document, and not in the future."""
    document = torch.bucketize(torch.arange(NUM_TOKENS), starts[1:-1], right=True)
    return (document[:, None] == document).tril()[None, None]


def by_hand(borders: list[int]) -> Callable[..., tuple[torch.Tensor, None]]:
    """Return an attention function that knows the borders: nothing but the loop."""

    def attention(
        module: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: Any,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, None]:
        parts = []
        for a, b in pairwise(borders):
            q, k, v = query[:, :, a:b], key[:, :, a:b], value[:, :, a:b]
            parts.append(F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True))
        return torch.cat(parts, 2).transpose(1, 2), None

    return attention


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--median", type=int, default=300, help="tokens of a document")
    args = parser.parse_args()
    torch.set_num_threads(1)
    starts = document_starts(args.median)
    AttentionInterface.register("by_hand", by_hand(starts.tolist()))
    AttentionMaskInterface.register("by_hand", ALL_MASK_ATTENTION_FUNCTIONS["sdpa"])
    model = small_llama()
    ids = torch.randint(VOCABULARY, (1, NUM_TOKENS))
    positions = torch.cat([torch.arange(int(n)) for n in starts.diff()])[None]
    masks = {
        NAME: document_mask(starts),
        "by_hand": document_mask(starts),
        "sdpa": block_mask(starts),
    }
    losses: dict[str, float] = {}

    def step(name: str) -> None:
        hidden = model.model(input_ids=ids, attention_mask=masks[name], position_ids=positions)[0]
        loss = hidden.square().mean()
        loss.backward()
        losses[name] = loss.item()

    def measure(name: str) -> float:
        model.set_attn_implementation(name)
        return cpu_seconds(lambda: step(name))

    ours, hand, dense = best_in_turns(
        [lambda name=name: measure(name) for name in masks], args.repeats
    )
    if max(losses.values()) - min(losses.values()) > 1e-5:
        raise RuntimeError(f"the losses differ: {losses}")
    header()
    documents = len(starts) - 1
    row(f"CPU s a step, {documents} documents, peer: hand-written loop", ours, hand, "<= 1.1")
    row(f"CPU s a step, {documents} documents, peer: dense mask", ours, dense, "< 1")


if __name__ == "__main__":
    main()
