"""``inlay chat``: talk to a model in the terminal, or through a pipe."""

from __future__ import annotations

import argparse
from typing import Any

NAME = "chat"
HELP = "chat with a model, an adapter on it, or a pipe on standard input"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("model", help="folder in Hugging Face layout, or hub name")
    add("--adapter", metavar="DIR", help="PEFT adapter (LoRA) to put on the model")
    add("--torch-dtype", choices=("fp16", "bf16", "fp32", "auto"), default="auto")
    add("--bits", type=int, choices=(4, 8), help="quantise with bitsandbytes")
    add("--offload-folder", metavar="DIR", help="folder for weights that do not fit in memory")
    add("--prompt-template", metavar="NAME", help="default: the tokenizer's own chat template")
    system = parser.add_mutually_exclusive_group()
    system.add_argument("--system", metavar="TEXT", help="system text")
    system.add_argument("--system-template", metavar="NAME", help="named system text")
    add("--bot-name", default="BOT", help="name of the bot in a system template (default BOT)")
    add("--stop-words", nargs="+", default=[], metavar="TEXT", help="texts that end an answer")
    add("--no-streamer", action="store_true", help="print each answer only when it is complete")
    add("--max-new-tokens", type=int, default=2048, help="default 2048")
    add("--temperature", type=float, default=0.1, help="0 is greedy (default 0.1)")
    add("--top-k", type=int, default=40, help="default 40; 0: all tokens")
    add("--top-p", type=float, default=0.75, help="default 0.75")
    add("--repetition-penalty", type=float, default=1.0, help="default 1.0: none")
    add("--seed", type=int, default=0, help="the same seed gives the same text (default 0)")


def run(args: argparse.Namespace) -> int:
    template, system = _template(args.prompt_template), _system(args)
    _check_sampling(args)

    from inlay.chat.session import ChatSession
    from inlay.chat.terminal import run_chat
    from inlay.models.lm import load_causal_lm

    model = load_causal_lm(
        args.model,
        dtype=args.torch_dtype,
        bits=args.bits,
        adapter=args.adapter,
        offload_folder=args.offload_folder,
    )
    session = ChatSession(
        model,
        _tokenizer(args.model, args.adapter),
        template,
        system,
        args.stop_words,
        temperature=args.temperature,
        top_k=args.top_k,
        top_p=args.top_p,
        repetition_penalty=args.repetition_penalty,
        max_new_tokens=args.max_new_tokens,
        seed=args.seed,
    )
    return run_chat(session, stream=not args.no_streamer)


def _template(name: str | None) -> dict[str, Any] | None:
    from inlay.data.templates import check_template

    return None if name is None else check_template(name)


def _system(args: argparse.Namespace) -> str | None:
    from inlay.core.errors import ConfigError, did_you_mean
    from inlay.data.templates import SYSTEM_TEMPLATE, fill

    name = args.system_template
    if name is None:
        return args.system
    if name not in SYSTEM_TEMPLATE:
        raise ConfigError(
            f"there is no system template '{name}'.{did_you_mean(name, SYSTEM_TEMPLATE)} "
            f"Known names: {', '.join(SYSTEM_TEMPLATE)}."
        )
    return fill(SYSTEM_TEMPLATE[name], bot_name=args.bot_name)


def _check_sampling(args: argparse.Namespace) -> None:
    from inlay.core.errors import ConfigError

    limits = {
        "temperature": (args.temperature >= 0, "0 or more"),
        "top_k": (args.top_k >= 0, "0 or more"),
        "top_p": (0 < args.top_p <= 1, "in (0, 1]"),
        "repetition_penalty": (args.repetition_penalty > 0, "more than 0"),
        "max_new_tokens": (args.max_new_tokens > 0, "more than 0"),
    }
    for name, (valid, expected) in limits.items():
        if not valid:
            option = name.replace("_", "-")
            raise ConfigError(f"--{option} must be {expected}, got {getattr(args, name)}")


def _tokenizer(model: str, adapter: str | None) -> Any:
    """The adapter's tokenizer where it has one (it carries the template of its training)."""
    from pathlib import Path

    from transformers import AutoTokenizer

    from inlay.core.errors import ModelError

    own = adapter is not None and (Path(adapter) / "tokenizer_config.json").is_file()
    path = adapter if own else model
    try:
        return AutoTokenizer.from_pretrained(path)
    except (OSError, ValueError) as error:
        raise ModelError(f"cannot load a tokenizer from '{path}': {error}") from error
