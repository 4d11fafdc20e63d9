"""``inlay generate``: several answers to one question about a picture."""

from __future__ import annotations

import argparse
from typing import Any

NAME = "generate"
HELP = "let a vision-language model answer one question about a picture several times"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("model", help="folder or hub name of a vision-language model")
    add("--image", required=True, metavar="FILE", help="picture: file or http(s) address")
    add("--prompt", default="What is this?", metavar="TEXT", help="default 'What is this?'")
    add("--generations", type=int, default=5, metavar="N", help="answers (default 5)")
    add("--max-new-tokens", type=int, default=300, help="longest answer (default 300)")
    add("--top-k", type=int, default=50, help="default 50; 0: all tokens")
    add("--top-p", type=float, default=0.9, help="default 0.9")
    add("--temperature", type=float, default=0.5, help="default 0.5")
    add("--greedy", action="store_true", help="the most probable token each time")
    add("--prompt-template", metavar="NAME", help="default: the tokenizer's own chat template")
    add("--torch-dtype", choices=("fp16", "bf16", "fp32", "auto"), default="auto")
    add("--seed", type=int, default=0, help="the same seed gives the same answers (default 0)")
    add("--measure-memory", action="store_true", help="show memory after loading and at its peak")
    add("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> None:
    from inlay.chat.pictures import read_picture
    from inlay.cli.chat import check_sampling, named_template

    template = named_template(args.prompt_template)
    check_sampling(args)
    image = read_picture(args.image)

    from inlay.app.open_model import open_model
    from inlay.chat.session import ChatSession

    opened = open_model(args.model, dtype=args.torch_dtype)
    used = [memory(opened.model)]
    session = ChatSession(
        opened.model,
        opened.tokenizer,
        template or opened.template,
        temperature=0.0 if args.greedy else args.temperature,
        top_k=args.top_k,
        top_p=args.top_p,
        max_new_tokens=args.max_new_tokens,
        seed=args.seed,
        image_processor=opened.image_processor,
        images=[image],
    )
    answers = []
    for number in range(1, args.generations + 1):
        session.reset()
        answers.append(session.reply(args.prompt))
        used.append(memory(opened.model))
        if not args.json:
            print(f">> Generation {number}: {answers[-1]}", flush=True)
    if args.json:
        _print_json(args, answers, used)
    elif args.measure_memory:
        print(f"memory: {used[0]} MB after loading, {used[-1]} MB at the peak")


def memory(model: Any) -> int:
    """Peak memory of this process so far in MB: of the model's GPU, or resident on a CPU."""
    from inlay.engine.hooks.logger import peak_memory

    return peak_memory(model.device)


def _print_json(args: argparse.Namespace, answers: list[str], used: list[int]) -> None:
    import json

    result: dict[str, Any] = {"prompt": args.prompt, "answers": answers}
    if args.measure_memory:
        result["memory_mb"] = {"loaded": used[0], "peak": used[-1]}
    print(json.dumps(result, ensure_ascii=False, indent=1))
