"""``inlay serve``: a page to chat with a model, about pictures or not, on this machine."""

from __future__ import annotations

import argparse
from typing import Any

from inlay.cli.chat import check_sampling, named_template
from inlay.cli.mmbench import add_model_options

NAME = "serve"
HELP = "a page to chat with a model, with masks for what its answers name; on this machine only"
_GROUNDED = ("config", "phrases")
_OPENING = (
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
    add("--port", type=int, metavar="N", help="default 7860; 0: any that is free")
    add_model_options(parser)
    add("--system", default="", metavar="TEXT", help="system text of a new visitor")
    add("--max-new-tokens", type=int, default=512, help="most that a visitor gets (default 512)")
    add("--temperature", type=float, default=0.1, help="0 is greedy (default 0.1)")
    add("--top-k", type=int, default=40, help="default 40; 0: all tokens")
    add("--top-p", type=float, default=0.75, help="default 0.75")
    add("--repetition-penalty", type=float, default=1.0, help="default 1.0: none")
    add("--seed", type=int, default=0, help="the same seed gives the same text (default 0)")
    ground = parser.add_argument_group("masks for the answers' phrases").add_argument
    ground("--ground", metavar="CHECKPOINT", help="grounding checkpoint of the model")
    ground("--config", metavar="CONFIG", help="of the checkpoint, where it carries none")
    ground("--phrases", choices=("auto", "nouns", "selector"), help="who chooses them (auto)")
    what = "print the command that serves an exported folder with vLLM, and start nothing"
    add("--print-vllm", action="store_true", help=what)


def run(args: argparse.Namespace) -> int:
    if args.print_vllm:
        return _print_vllm(args)
    _check_grounding(args)
    check_sampling(args)
    template = named_template(args.prompt_template)

    from inlay.app.serve import PORT, check_gradio, free_port, open_service, serve

    check_gradio()
    port = free_port(PORT if args.port is None else args.port)

    from inlay.chat.web.parts import Settings

    names = ("system", "temperature", "top_k", "top_p", "repetition_penalty", "max_new_tokens")
    defaults = Settings(seed=args.seed, **{name: getattr(args, name) for name in names})
    options: dict[str, Any] = {"ground": args.ground}
    options |= {name: getattr(args, name) for name in (_GROUNDED if args.ground else _OPENING)}
    service = open_service(
        args.model,
        template=template,
        defaults=defaults,
        stop_words=args.stop_words,
        dtype=args.torch_dtype,
        **{name: value for name, value in options.items() if value is not None},
    )
    return serve(service, port)


def _check_grounding(args: argparse.Namespace) -> None:
    from inlay.core.errors import ConfigError

    wrong = _OPENING if args.ground else _GROUNDED
    odd = [f"--{n.replace('_', '-')}" for n in wrong if getattr(args, n) is not None]
    if odd:
        rule = "does not go with" if args.ground else "needs"
        raise ConfigError(f"{', '.join(odd)} {rule} --ground")


def _print_vllm(args: argparse.Namespace) -> int:
    from inlay.app.vllm import vllm_command
    from inlay.core.errors import ConfigError

    own = ("ground", "config", "phrases", "llava", "visual_encoder", "bits", "prompt_template")
    odd = [f"--{n.replace('_', '-')}" for n in own if getattr(args, n) is not None]
    if odd:
        raise ConfigError(
            f"{', '.join(odd)} cannot be said to vLLM: --print-vllm is for an exported folder, "
            "which brings its own template and stands alone"
        )
    print(vllm_command(args.model, args.adapter, args.port))
    return 0
