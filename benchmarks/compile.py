"""`env_cfg.compile`: one block compiled for all layers, against the whole model and none compiled.

A Llama, packed rows of changing length, forward and backward on one thread. Cold starts are CPU
seconds of a fresh process with an empty cache, less those of a later step; steps take turns in one
process. The last lines count what was compiled: graphs at the first row and after all others.

    python benchmarks/compile.py
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from typing import Any

import torch
from _ratio import best_in_turns, header, row

VOCABULARY = 4096
MODES = ("none", "whole", "regional")


def make_step(mode: str, num_layers: int, recompute: bool) -> Callable[[int], float]:
    """Return a function that trains on row ``i`` and returns its CPU seconds."""
    from transformers import LlamaConfig, LlamaForCausalLM

    from inlay.models import SupervisedFinetune
    from inlay.models.compile import compile_blocks, hide_from_compiler

    torch.set_num_threads(1)
    torch.manual_seed(0)
    llm = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=256,
            intermediate_size=688,
            num_hidden_layers=num_layers,
            num_attention_heads=8,
            num_key_value_heads=4,
            use_cache=False,
        )
    )
    model = SupervisedFinetune(llm, use_activation_checkpointing=recompute).train()
    if mode == "regional":
        compile_blocks(model)
    elif mode == "whole":
        hide_from_compiler()
        model.compile(dynamic=True)

    def step(number: int) -> float:
        inputs = packed_row(number)
        before = all_cpu_seconds()
        model.zero_grad()
        out = model(**inputs)
        (out.loss_sum / out.loss_units).backward()
        return all_cpu_seconds() - before

    return step


def packed_row(number: int) -> dict[str, Any]:
    """About a thousand tokens in documents of 60 to 400; every row has lengths of its own."""
    drawn = torch.Generator().manual_seed(number)
    lengths = torch.randint(60, 400, (4 + number % 3,), generator=drawn)
    ids = torch.randint(VOCABULARY, (1, int(lengths.sum())), generator=drawn)
    return {
        "input_ids": ids,
        "labels": ids.clone(),
        "position_ids": torch.cat([torch.arange(n) for n in lengths])[None],
        "doc_starts": torch.cat([torch.zeros(1), lengths.cumsum(0)]).int(),
        "longest_document": int(lengths.max()),
    }


def all_cpu_seconds() -> float:
    """CPU seconds of this process and of the C++ compilers that it has called."""
    return sum(os.times()[:4])


def cold_start(mode: str, num_layers: int, recompute: bool, num_rows: int) -> dict[str, float]:
    """Return CPU seconds of the first step less a later one, and graphs after it and at the end."""
    from torch._dynamo.utils import counters

    step = make_step(mode, num_layers, recompute)
    first = step(0)
    graphs = counters["stats"]["unique_graphs"]
    later = min(step(0) for _ in range(3))
    for number in range(1, num_rows):
        step(number)
    return {"seconds": first - later, "first": graphs, "end": counters["stats"]["unique_graphs"]}


def in_fresh_process(*words: object) -> dict[str, float]:
    """``cold_start`` where nothing was ever compiled."""
    command = [sys.executable, __file__, "--one", *map(str, words)]
    with tempfile.TemporaryDirectory() as folder:
        cache = {"TORCHINDUCTOR_CACHE_DIR": folder, "TORCHINDUCTOR_COMPILE_THREADS": "1"}
        return json.loads(subprocess.check_output(command, env=os.environ | cache))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--rows", type=int, default=12)
    parser.add_argument("--one", nargs=4, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        mode, layers, recompute, rows = args.one
        print(json.dumps(cold_start(mode, int(layers), recompute == "True", int(rows))))
        return
    header()
    uncompiled: list[float] = []
    for recompute in (False, True):
        place = "recomputed" if recompute else "kept"
        cold = {m: in_fresh_process(m, args.layers, recompute, args.rows) for m in MODES[1:]}
        seconds = [cold[m]["seconds"] for m in ("regional", "whole")]
        row(f"cold start s, {place}, peer: whole", *seconds, "< 1")
        steps = [make_step(m, args.layers, recompute) for m in MODES]
        for step in steps:
            step(0)
        turns = [lambda step=step: sum(map(step, range(4))) for step in steps]
        none, whole, regional = best_in_turns(turns, 5)
        row(f"CPU s of 4 steps, {place}, peer: none", regional, none, "< 1")
        row(f"CPU s of 4 steps, {place}, peer: whole", regional, whole, "<= 1")
        uncompiled.append(none)
        for mode, found in cold.items():
            row(f"graphs, {mode}, {place}: end, first row", found["end"], found["first"], "1")
    row("CPU s of 4 steps, none: recomputed, kept", uncompiled[1], uncompiled[0], "<= 1.35")


if __name__ == "__main__":
    main()
