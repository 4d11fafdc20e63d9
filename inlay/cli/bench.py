"""``inlay bench``: how fast vision-language models answer, over a small grid."""

from __future__ import annotations

import argparse
from typing import Any

NAME = "bench"
HELP = "measure how fast vision-language models answer: finished ones, or a grid of backbones"
WIDTH = 160  # of the table where there is no terminal
COLUMNS = {
    "model": "model",
    "pixel_shuffle": "shuffle",
    "image_tokens": "image tokens",
    "vision_s": "vision ms",
    "projector_s": "projector ms",
    "first_token_s": "first token ms",
    "tokens_per_s": "tokens/s",
    "weights_mb": "weights MB",
    "peak_mb": "peak MB",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("models", nargs="*", help="finished models: folders or hub names")
    add("--vit-model-types", nargs="+", default=[], metavar="NAME", help="vision encoders")
    add("--lm-model-types", nargs="+", default=[], metavar="NAME", help="language models")
    add("--lm-tokenizer", metavar="NAME", help="default: each language model's own")
    add(
        "--mp-pixel-shuffle-factors",
        nargs="+",
        type=int,
        default=[1, 2, 4],
        metavar="K",
        help="for every pair of backbones (default 1 2 4)",
    )
    add("--image-path", metavar="FILE", help="default: a drawn picture of 512 x 512 px")
    add("--prompt", default="What is in this image?", metavar="TEXT")
    add("--max-new-tokens", type=int, default=50, help="length of an answer (default 50)")
    add("--num-runs", type=int, default=10, help="measured answers (default 10)")
    add("--warmup-runs", type=int, default=3, help="answers before (default 3)")
    add("--torch-dtype", choices=("fp16", "bf16", "fp32", "auto"), default="auto")
    add("--json", action="store_true", help="print a JSON list")


def run(args: argparse.Namespace) -> int:
    from inlay.core.errors import ConfigError

    if bool(args.vit_model_types) != bool(args.lm_model_types):
        raise ConfigError("--vit-model-types and --lm-model-types go together")
    if not args.models and not args.vit_model_types:
        raise ConfigError("name models, or --vit-model-types and --lm-model-types")
    for name, least in (("max_new_tokens", 2), ("num_runs", 1), ("warmup_runs", 0)):
        if getattr(args, name) < least:
            raise ConfigError(f"--{name.replace('_', '-')} must be {least} or more")

    from inlay.app.bench import Work, bench, finished, from_backbones

    cases = finished(args.models, args.torch_dtype) + from_backbones(
        args.vit_model_types, args.lm_model_types, args.mp_pixel_shuffle_factors, args.lm_tokenizer
    )
    work = Work(
        _image(args.image_path), args.prompt, args.max_new_tokens, args.num_runs, args.warmup_runs
    )
    rows = list(bench(cases, work))
    _print_json(rows) if args.json else _print_table(rows)
    return int(all("error" in row for row in rows))


def _image(path: str | None) -> Any:
    from inlay.app.bench import FALLBACK_SIDE
    from inlay.chat.pictures import read_picture

    if path is not None:
        return read_picture(path)
    from PIL import Image

    picture = Image.radial_gradient("L").convert("RGB")
    return picture.resize((FALLBACK_SIDE, FALLBACK_SIDE))


def _print_json(rows: list[dict[str, Any]]) -> None:
    import json

    print(json.dumps(rows, indent=1, ensure_ascii=False))


def _print_table(rows: list[dict[str, Any]]) -> None:
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.table import Table

    columns = {key: title for key, title in COLUMNS.items() if any(key in row for row in rows)}
    table = Table(*columns.values(), box=SIMPLE)
    for row in rows:
        table.add_row(*(_cell(key, row.get(key)) for key in columns))
    console = Console()
    if not console.is_terminal:
        console.width = WIDTH
    console.print(table)
    for row in rows:
        if "error" in row:
            console.print(f"{row['model']}: {row['error']}", markup=False, soft_wrap=True)


def _cell(key: str, value: Any) -> str:
    if value is None:
        return "-"
    if key.endswith("_s") and key != "tokens_per_s":
        return f"{value * 1000:.1f}"
    if key == "model":  # names without their folders and owners
        return " + ".join(name.rstrip("/").rsplit("/", 1)[-1] for name in value.split(" + "))
    return f"{value:.1f}" if isinstance(value, float) else str(value)
