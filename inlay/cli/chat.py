"""``inlay chat``: talk to a model in the terminal, or through a pipe."""

from __future__ import annotations

import argparse
from typing import Any

NAME = "chat"
HELP = "chat with a model, about a picture or not: in the terminal, or through a pipe"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("model", help="folder in Hugging Face layout, or hub name")
    on_top = parser.add_mutually_exclusive_group()
    on_top.add_argument("--adapter", metavar="DIR", help="PEFT adapter (LoRA) to put on the model")
    on_top.add_argument("--llava", metavar="DIR", help="LLaVA parts that give the model eyes")
    add("--visual-encoder", metavar="NAME", help="vision encoder, where --llava has none")
    add("--visual-select-layer", type=int, metavar="N", help="default: that of --llava, or -2")
    add("--image", metavar="FILE", help="picture of the first turn: file or http(s) address")
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
    template, system = named_template(args.prompt_template), _system(args)
    check_sampling(args)

    image = _image(args.image)

    from inlay.chat.open import open_model
    from inlay.chat.session import ChatSession
    from inlay.chat.terminal import run_chat

    opened = open_model(
        args.model,
        adapter=args.adapter,
        llava=args.llava,
        visual_encoder=args.visual_encoder,
        visual_select_layer=args.visual_select_layer,
        dtype=args.torch_dtype,
        bits=args.bits,
        offload_folder=args.offload_folder,
    )
    session = ChatSession(
        opened.model,
        opened.tokenizer,
        template,
        system,
        args.stop_words,
        temperature=args.temperature,
        top_k=args.top_k,
        top_p=args.top_p,
        repetition_penalty=args.repetition_penalty,
        max_new_tokens=args.max_new_tokens,
        seed=args.seed,
        image_processor=opened.image_processor,
        images=image,
    )
    return run_chat(session, stream=not args.no_streamer)


def _image(source: str | None) -> list[Any]:
    """The picture, before any weight is read: a mistake there must not wait for the model."""
    from inlay.chat.pictures import read_picture

    return [] if source is None else [read_picture(source)]


def named_template(name: str | None) -> dict[str, Any] | None:
    """Look up ``--prompt-template``; None stands for the tokenizer's own."""
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


def check_sampling(args: argparse.Namespace) -> None:
    """Hold the sampling options of a command against their ranges.

    Raises:
        ConfigError: one is outside.
    """
    from inlay.core.errors import ConfigError

    limits = {
        "temperature": (lambda value: value >= 0, "0 or more"),
        "top_k": (lambda value: value >= 0, "0 or more"),
        "top_p": (lambda value: 0 < value <= 1, "in (0, 1]"),
        "repetition_penalty": (lambda value: value > 0, "more than 0"),
        "max_new_tokens": (lambda value: value > 0, "more than 0"),
        "generations": (lambda value: value > 0, "more than 0"),
    }
    for name, value in vars(args).items():
        valid, expected = limits.get(name, (None, ""))
        if valid is not None and not valid(value):
            raise ConfigError(f"--{name.replace('_', '-')} must be {expected}, got {value}")
