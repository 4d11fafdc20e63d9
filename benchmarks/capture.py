"""Attention rows captured while the model runs: against no capture, and against eager maps.

A random language model of 12 layers (384 wide, 8 heads, 4 of keys) on one thread; 40 grounded
tokens that name 8 masks. N = 704 has 576 image tokens (LLaVA-1.5), N = 3000 has 2,880
(LLaVA-Next). No path computes logits; the peer keeps ``[L, H, N, N]`` (``output_attentions=True``),
as the original does, and merges afterwards. Both give the same maps, or the run stops.

Memory is what a forward pass adds to the resident size of a fresh process at its peak, weights and
imports not counted: all of it, and what is beyond the same pass without any capture.

    python benchmarks/capture.py
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from _ratio import best_in_turns, cpu_seconds, header, row
from transformers import LlamaConfig, LlamaModel

from inlay.models.attention import document_mask
from inlay.models.grounding.capture import Grounded, capture

IMAGE_TOKENS = {704: 576, 3000: 2880}
MASKS, WORDS = 8, 5
PROMPT = 20  # tokens before the picture


class Forward:
    """One forward pass over ``num_tokens``, in three ways."""

    def __init__(self, num_tokens: int) -> None:
        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=512,
            hidden_size=384,
            intermediate_size=1024,
            num_hidden_layers=12,
            num_attention_heads=8,
            num_key_value_heads=4,
            max_position_embeddings=4096,
            use_cache=False,
        )
        self.decoder: Any = LlamaModel(config).eval()
        self.ids = torch.randint(512, (1, num_tokens))
        images = IMAGE_TOKENS[num_tokens]
        self.columns = torch.arange(PROMPT, PROMPT + images)
        self.rows = torch.arange(num_tokens - MASKS * WORDS, num_tokens)
        self.mask = document_mask(torch.tensor([0, num_tokens]))

    def plain(self) -> None:
        self.decoder.set_attn_implementation("inlay")
        self.decoder(self.ids, attention_mask=self.mask)

    def captured(self) -> torch.Tensor:
        """Maps ``[M, L * H, K]`` of the masks."""
        grounded = Grounded(
            batch=torch.zeros_like(self.rows),
            rows=self.rows,
            masks=torch.arange(MASKS).repeat_interleave(WORDS),
            columns=self.columns.expand(MASKS, -1),
        )
        with capture(self.decoder, grounded) as seen:
            self.decoder(self.ids, attention_mask=self.mask)
        return seen.maps

    def eager(self) -> torch.Tensor:
        """The same maps from whole attention matrices."""
        self.decoder.set_attn_implementation("eager")
        out = self.decoder(self.ids, output_attentions=True, output_hidden_states=True)
        rows = [layer[0, :, self.rows][..., self.columns] for layer in out.attentions]
        maps_CTK = torch.cat(rows)
        return maps_CTK.unflatten(1, (MASKS, WORDS)).mean(2).transpose(0, 1)


def resident(name: str) -> float:
    """Read ``VmRSS`` (now) or ``VmHWM`` (at the peak) of this process in MB (Linux)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) / 1024


@torch.no_grad()
def added_megabytes(name: str, num_tokens: int) -> float:
    """Return what a forward pass adds to this process at its peak."""
    torch.set_num_threads(1)
    forward = Forward(num_tokens)
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here on
    getattr(forward, name)()
    return resident("VmHWM") - before


def in_fresh_process(name: str, num_tokens: int) -> float:
    command = [sys.executable, __file__, "--one", name, str(num_tokens)]
    return json.loads(subprocess.check_output(command))


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(added_megabytes(args.one[0], int(args.one[1]))))
        return
    torch.set_num_threads(1)
    header()
    for tokens in IMAGE_TOKENS:
        forward = Forward(tokens)
        worst = (forward.captured() - forward.eager()).abs().max().item()
        if worst > 1e-5:
            raise RuntimeError(f"the maps differ by {worst}")
        ways = (forward.captured, forward.plain)
        ours, plain = best_in_turns([lambda w=w: cpu_seconds(w) for w in ways], args.repeats)
        eager = min(cpu_seconds(forward.eager) for _ in range(2))
        row(f"CPU s, N = {tokens}, peer: no capture", ours, plain, "<= 1.05")
        row(f"CPU s, N = {tokens}, peer: eager maps", ours, eager, "<= 0.25 at 3000")
        used, base = (
            min(in_fresh_process(way, tokens) for _ in range(3)) for way in ("captured", "plain")
        )
        whole = in_fresh_process("eager", tokens)
        row(f"peak MB, N = {tokens}, peer: eager maps", used, whole, "")
        beyond = f"peak MB beyond no capture ({base:.0f}), N = {tokens}"
        row(beyond, used - base, whole - base, "<= 0.04 at 3000")


if __name__ == "__main__":
    main()
