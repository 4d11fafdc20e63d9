"""The loss at a vocabulary of 151,936: logits at trained positions only, against all positions.

One decoder layer under a large head, forward and backward on one thread, half of the tokens trained
and then all. Peak memory is what a fresh process adds while it makes the step.

    python benchmarks/loss.py
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys

import torch
from _ratio import cpu_seconds, header, row

VOCABULARY = 151_936
WIDTH = 256
REPEATS = 3


def step_costs(name: str, num_tokens: int, trained: float, precision: str) -> tuple[float, float]:
    """Return CPU seconds and added peak memory in MB of one step. ``name``: ours or library."""
    from transformers import LlamaConfig, LlamaForCausalLM

    from inlay.core.types import IGNORE_INDEX
    from inlay.models import SupervisedFinetune

    torch.set_num_threads(1)
    torch.manual_seed(0)
    llm = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=WIDTH,
            intermediate_size=688,
            num_hidden_layers=1,
            num_attention_heads=4,
            tie_word_embeddings=True,
            use_cache=False,
        )
    )
    ids = torch.randint(VOCABULARY, (1, num_tokens))
    labels = ids.clone()
    labels[:, : int(num_tokens * (1 - trained))] = IGNORE_INDEX
    if name == "ours":
        model = SupervisedFinetune(llm, use_activation_checkpointing=False)
        inputs = {
            "input_ids": ids,
            "labels": labels,
            "position_ids": torch.arange(num_tokens)[None],
            "doc_starts": torch.tensor([0, num_tokens], dtype=torch.int32),
        }

    def step() -> None:
        llm.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
            if name == "ours":
                out = model(**inputs)
                loss = out.loss_sum / out.loss_units
            else:
                loss = llm(ids, labels=labels).loss
        loss.backward()

    before = peak_megabytes()
    seconds = min(cpu_seconds(step) for _ in range(REPEATS))
    return seconds, peak_megabytes() - before


def peak_megabytes() -> float:
    """Peak resident memory of this process (Linux counts it in KB)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def in_fresh_process(*words: object) -> tuple[float, float]:
    command = [sys.executable, __file__, "--one", *map(str, words)]
    return tuple(json.loads(subprocess.check_output(command)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, default=1024)
    parser.add_argument("--one", nargs=4, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        name, tokens, trained, precision = args.one
        print(json.dumps(step_costs(name, int(tokens), float(trained), precision)))
        return
    header()
    for precision in ("float32", "bfloat16"):
        for trained in (0.5, 1.0):
            ours = in_fresh_process("ours", args.tokens, trained, precision)
            peer = in_fresh_process("library", args.tokens, trained, precision)
            place = f"{precision}, {trained:.0%} trained"
            row(f"CPU s, {place}, peer: library's loss", ours[0], peer[0], "<= 1.05")
            row(f"peak MB, {place}, peer: library's", ours[1], peer[1], "<= 1")


if __name__ == "__main__":
    main()
