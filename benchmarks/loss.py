"""The loss at a vocabulary of 151,936: logits at trained positions only, some of them at a time.

One decoder layer under a large head, forward and backward on one thread. First against all logits
of the library, half of the tokens trained and then all. Then, at a width of 1024, logits of some
tokens at a time against those of all at once; ``--sizes`` compares other numbers of tokens. Peak
memory is what a fresh process adds while it makes the step.

    python benchmarks/loss.py
    python benchmarks/loss.py --sizes 256 1024 2048
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
from typing import Any

import torch
from _ratio import cpu_seconds, header, row

VOCABULARY = 151_936
WIDTH = 256
WIDE = 1024
LONG = 4096


def make_llm(width: int) -> Any:
    """One layer with tied embeddings, on one thread."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.set_num_threads(1)
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=width,
            intermediate_size=688,
            num_hidden_layers=1,
            num_attention_heads=4,
            tie_word_embeddings=True,
            use_cache=False,
        )
    )


def step_costs(
    name: str, num_tokens: int, trained: float, precision: str, width: int, repeats: int
) -> tuple[float, float]:
    """Return CPU seconds and added peak memory in MB of one step.

    Args:
        name: ``library``, ``ours``, or the number of tokens that have logits at a time.
    """
    from inlay.core.types import IGNORE_INDEX
    from inlay.models import SupervisedFinetune, loss

    llm = make_llm(width)
    ids = torch.randint(VOCABULARY, (1, num_tokens))
    labels = ids.clone()
    labels[:, : int(num_tokens * (1 - trained))] = IGNORE_INDEX
    inputs = {
        "input_ids": ids,
        "labels": labels,
        "position_ids": torch.arange(num_tokens)[None],
        "doc_starts": torch.tensor([0, num_tokens], dtype=torch.int32),
    }
    if name.isdigit():
        loss.LOGITS_AT_ONCE = int(name) * VOCABULARY
    model = llm if name == "library" else SupervisedFinetune(llm, None, False)

    def step() -> None:
        llm.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
            if name == "library":
                mean = model(ids, labels=labels).loss
            else:
                out = model(**inputs)
                mean = out.loss_sum / out.loss_units
        mean.backward()

    before = peak_megabytes()
    seconds = min(cpu_seconds(step) for _ in range(repeats))
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
    parser.add_argument("--sizes", type=int, nargs="+", default=[])
    parser.add_argument("--one", nargs=6, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        name, tokens, trained, precision, width, repeats = args.one
        costs = step_costs(name, int(tokens), float(trained), precision, int(width), int(repeats))
        print(json.dumps(costs))
        return
    header()
    for precision in ("float32", "bfloat16"):
        for trained in () if args.sizes else (0.5, 1.0):
            ours = in_fresh_process("ours", args.tokens, trained, precision, WIDTH, 3)
            peer = in_fresh_process("library", args.tokens, trained, precision, WIDTH, 3)
            place = f"{precision}, {trained:.0%} trained"
            row(f"CPU s, {place}, peer: library's loss", ours[0], peer[0], "<= 1.05")
            row(f"peak MB, {place}, peer: library's", ours[1], peer[1], "<= 1")
        peer = in_fresh_process(LONG, LONG, 1.0, precision, WIDE, 1)
        for size in args.sizes or ["ours"]:
            ours = in_fresh_process(size, LONG, 1.0, precision, WIDE, 1)
            row(f"CPU s, {precision}, {size} at a time, peer: all", ours[0], peer[0], "<= 1.05")
            row(f"peak MB, {precision}, {size} at a time, peer: all", ours[1], peer[1], "<= 0.5")


if __name__ == "__main__":
    main()
