"""``inlay chat``: talk to a model in the terminal, or through a pipe."""

from __future__ import annotations

import argparse
from functools import partial
from typing import TYPE_CHECKING, Any

from inlay.cli.mmbench import bits

if TYPE_CHECKING:
    from pathlib import Path

    from inlay.chat.grounded import GroundedSession
    from inlay.chat.session import ChatSession

NAME = "chat"
HELP = "chat with a model, about a picture or not: in the terminal, or through a pipe"

MOSS = "moss_sft"
_GROUNDED = ("config", "phrases", "out")
_UNGROUNDED = (
    "with_plugins",
    "adapter",
    "llava",
    "visual_encoder",
    "visual_select_layer",
    "bits",
    "offload_folder",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("model", help="folder in Hugging Face layout, hub name, or a checkpoint of a run (iter_N)")
    on_top = parser.add_mutually_exclusive_group()
    on_top.add_argument("--adapter", metavar="DIR", help="PEFT adapter (LoRA) to put on the model")
    on_top.add_argument("--llava", metavar="DIR", help="LLaVA parts that give the model eyes")
    add("--visual-encoder", metavar="NAME", help="vision encoder, where --llava has none")
    add("--visual-select-layer", type=int, metavar="N", help="default: that of --llava, or -2")
    add("--image", metavar="FILE", help="picture of the first turn: file or http(s) address")
    add("--torch-dtype", choices=("fp16", "bf16", "fp32", "auto"), default="auto")
    add("--bits", type=bits, choices=(4, 8, None), help="quantise with bitsandbytes")
    add("--offload-folder", metavar="DIR", help="folder for weights that do not fit in memory")
    add("--prompt-template", metavar="NAME", help="default: the tokenizer's own chat template")
    system = parser.add_mutually_exclusive_group()
    system.add_argument("--system", metavar="TEXT", help="system text")
    system.add_argument("--system-template", metavar="NAME", help="named system text")
    add("--bot-name", default="BOT", help="name of the bot in a system template (default BOT)")
    add(
        "--with-plugins",
        nargs="+",
        choices=("calculate", "solve", "search"),
        help="tools that the model may call, in the template moss_sft; search needs SERPER_API_KEY",
    )
    add("--lagent", action="store_true", help="removed; see --with-plugins")
    add("--stop-words", nargs="+", default=[], metavar="TEXT", help="texts that end an answer")
    add("--command-stop-word", metavar="TEXT", help="text that ends a call of tools (<eoc>)")
    add("--answer-stop-word", metavar="TEXT", help="one more text that ends an answer")
    add("--no-streamer", action="store_true", help="print each answer only when it is complete")
    add("--max-new-tokens", type=int, default=2048, help="default 2048")
    add("--temperature", type=float, default=0.1, help="0 is greedy (default 0.1)")
    add("--top-k", type=int, default=40, help="default 40; 0: all tokens")
    add("--top-p", type=float, default=0.75, help="default 0.75")
    add("--repetition-penalty", type=float, default=1.0, help="default 1.0: none")
    add("--seed", type=int, default=0, help="the same seed gives the same text (default 0)")
    ground = parser.add_argument_group("masks for the answers' phrases")
    add = ground.add_argument
    add("--ground", metavar="CHECKPOINT", help="grounding checkpoint of the model; needs --image")
    add("--config", metavar="CONFIG", help="of the checkpoint, where it carries none")
    add("--phrases", choices=("auto", "nouns", "selector"), help="who chooses them (default auto)")
    add("--out", metavar="FILE", help="overlays out_1.png, ... (default: <picture>_grounded_1.png)")


def run(args: argparse.Namespace) -> int:
    _settle_plugins(args)
    template, system = named_template(args.prompt_template), _system(args)
    check_sampling(args)
    overlay = _overlay(args)

    image = _image(args.image)

    from inlay.chat.terminal import run_chat

    settings = {
        "system": system,
        "stop_words": _stop_words(args),
        "temperature": args.temperature,
        "top_k": args.top_k,
        "top_p": args.top_p,
        "repetition_penalty": args.repetition_penalty,
        "max_new_tokens": args.max_new_tokens,
        "seed": args.seed,
    }
    stream = not args.no_streamer
    if overlay is None:
        return run_chat(_session(args, template, image, settings), stream=stream)

    from inlay.chat.grounded import Overlays

    session = _grounded(args, template, image[0], settings)
    return run_chat(session, stream=stream, after=Overlays(session, overlay, args.image))


def _session(
    args: argparse.Namespace,
    template: dict[str, Any] | None,
    images: list[Any],
    settings: dict[str, Any],
) -> ChatSession:
    from inlay.app.open_model import open_model
    from inlay.chat.session import ChatSession

    make: Any = ChatSession
    if args.with_plugins is not None:
        from inlay.chat.plugins import Plugins, PluginSession

        plugins = Plugins(args.with_plugins)
        make = partial(PluginSession, plugins=plugins, command_stop_word=args.command_stop_word)
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
    return make(
        opened.model,
        opened.tokenizer,
        template or opened.template,
        image_processor=opened.image_processor,
        images=images,
        **settings,
    )


def _grounded(
    args: argparse.Namespace,
    template: dict[str, Any] | None,
    image: Any,
    settings: dict[str, Any],
) -> GroundedSession:
    from inlay.app.grounder import open_grounder
    from inlay.chat.grounded import GroundedSession

    grounder = open_grounder(args.model, args.ground, args.config, dtype=args.torch_dtype)
    phrases = args.phrases or "auto"
    return GroundedSession(grounder, image, template, phrases=phrases, **settings)


def _settle_plugins(args: argparse.Namespace) -> None:
    """Refuse what does not go with plugins; they choose the templates where none is named."""
    from inlay.core.errors import ConfigError

    if args.lagent:
        raise ConfigError(
            "--lagent was removed: its agent is a project of its own (lagent). For a web search in "
            "the chat: --with-plugins search"
        )
    if args.with_plugins is None:
        return
    if args.system is None and args.system_template is None:
        args.system_template = MOSS
    args.prompt_template = args.prompt_template or MOSS
    if args.prompt_template != MOSS or args.system_template not in (None, MOSS):
        raise ConfigError(
            f"--with-plugins works in one form: --prompt-template {MOSS} and --system-template "
            f"{MOSS} (or leave both out)"
        )


def _stop_words(args: argparse.Namespace) -> list[str]:
    words = (args.command_stop_word, args.answer_stop_word)
    return [*args.stop_words, *(word for word in words if word)]


def _overlay(args: argparse.Namespace) -> Path | None:
    """The file of a grounded chat's overlays, before it is numbered; None without --ground."""
    from inlay.core.errors import ConfigError

    options = _UNGROUNDED if args.ground else _GROUNDED
    odd = [f"--{n.replace('_', '-')}" for n in options if getattr(args, n) is not None]
    if odd:
        rule = "does not go with" if args.ground else "needs"
        raise ConfigError(f"{odd[0]} {rule} --ground")
    if args.ground is None:
        return None
    if args.image is None:
        raise ConfigError("--ground needs a picture to point at: name it with --image")

    from inlay.chat.overlay_file import overlay_path

    return overlay_path(args.out, args.image)


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
    system = fill(SYSTEM_TEMPLATE[name], bot_name=args.bot_name)
    if name == args.prompt_template == MOSS:
        from inlay.chat.plugins import with_capabilities

        system = with_capabilities(system, args.with_plugins or ())
    return system


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
