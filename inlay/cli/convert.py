"""``inlay convert``: export a checkpoint, merge an adapter, split shards, verify an export."""

from __future__ import annotations

import argparse

NAME = "convert"
HELP = "turn checkpoints into Hugging Face folders; merge adapters, split shards, verify exports"
LAYOUTS = ("own", "llama")
LAYOUT_HELP = "of an InternLM2: its own names (own, default), or those of transformers' Llama"
FORMATS = ("xtuner", "whole", "huggingface", "official", "nanovlm", "flmm")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    jobs = parser.add_subparsers(dest="job", required=True, metavar="JOB")
    _add_pth_to_hf(jobs)
    _add_merge(jobs)
    _add_split(jobs)
    job = jobs.add_parser("deepspeed", help="ZeRO shards of all ranks -> one file of weights")
    job.add_argument("folder", help="DeepSpeed's folder, such as work_dirs/x/iter_500.pth")
    job.add_argument("out", help="file to write: NAME.safetensors, or NAME.pth for other tools")
    job.set_defaults(call=_deepspeed)
    job = jobs.add_parser("llava", help="LlavaForConditionalGeneration -> LLaVA parts")
    job.add_argument("model", help="folder or hub name")
    job.add_argument("dir", help="folder to write")
    job.add_argument("--max-shard-size", default="2GB", help="default 2GB")
    job.set_defaults(call=_llava)
    job = jobs.add_parser("verify", help="load an export back and compare it with its record")
    job.add_argument("dir", help="folder written by `inlay convert`")
    job.add_argument("--base", help="what it stands on (default: the model that it names)")
    job.set_defaults(call=_verify)


def _add_pth_to_hf(jobs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    what = "checkpoint -> Hugging Face model, PEFT adapter, or light grounding folder"
    job = jobs.add_parser("pth_to_hf", help=what)
    job.add_argument("config", help="config file of the run, or recipe name")
    job.add_argument(
        "checkpoint",
        help="checkpoint folder, such as work_dirs/x/iter_500, or XTuner's iter_500.pth (file or "
        "DeepSpeed folder)",
    )
    job.add_argument("dir", help="folder to write")
    job.add_argument("--fp32", action="store_true", help="write float32 (default: float16)")
    job.add_argument("--max-shard-size", default="2GB", help="default 2GB")
    job.add_argument(
        "--save-format",
        choices=FORMATS,
        default="xtuner",
        help="of a LLaVAModel: the trained parts (xtuner, default), all parts with adapters merged "
        "(whole), a LlavaForConditionalGeneration (huggingface), the layout of LLaVA's authors "
        "(official) or of nanoVLM; of a FrozenGrounding: F-LMM's layout (flmm; DIR is then a "
        "file, NAME.pth)",
    )
    job.add_argument("--layout", choices=LAYOUTS, default="own", help=LAYOUT_HELP)
    _add_safe_serialization(job)
    job.add_argument("--cfg-options", nargs="+", default=[], metavar="KEY=VALUE")
    job.set_defaults(call=_pth_to_hf)


def _add_merge(jobs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    job = jobs.add_parser("merge", help="fold an adapter into its base model")
    job.add_argument("model", help="base model, not quantised: folder or hub name")
    job.add_argument("adapter", help="PEFT adapter")
    job.add_argument("--is-clip", action="store_true", help="the model is a vision encoder")
    job.add_argument("dir", help="folder to write")
    job.add_argument("--max-shard-size", default="2GB", help="default 2GB")
    job.add_argument("--device", choices=("cpu", "cuda", "auto"), default="auto")
    job.add_argument("--layout", choices=LAYOUTS, default="own", help=LAYOUT_HELP)
    _add_safe_serialization(job)
    job.set_defaults(call=_merge)


def _add_safe_serialization(job: argparse.ArgumentParser) -> None:
    job.add_argument(
        "--safe-serialization",
        action="store_true",
        help="taken as in XTuner: safetensors is all that is ever written",
    )


def _add_split(jobs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    job = jobs.add_parser("split", help="rewrite a model with one tensor in each file")
    job.add_argument("src", help="model folder with safetensors files")
    job.add_argument("dst", help="folder to write")
    job.set_defaults(call=_split)


def run(args: argparse.Namespace) -> int | None:
    return args.call(args)


def _pth_to_hf(args: argparse.Namespace) -> None:
    from inlay.app.export.run import export_checkpoint

    export_checkpoint(
        args.config,
        args.checkpoint,
        args.dir,
        fp32=args.fp32,
        max_shard_size=args.max_shard_size,
        save_format=args.save_format,
        layout=args.layout,
        cfg_options=args.cfg_options,
    )


def _merge(args: argparse.Namespace) -> None:
    from inlay.convert.merge import merge, merge_visual_encoder
    from inlay.convert.verify import verify

    options = {"device": args.device, "max_shard_size": args.max_shard_size}
    if args.is_clip:
        merge_visual_encoder(args.model, args.adapter, args.dir, **options)
    else:
        merge(args.model, args.adapter, args.dir, layout=args.layout, **options)
    verify(args.dir)


def _deepspeed(args: argparse.Namespace) -> None:
    from inlay.convert.zero import merge_zero

    count = merge_zero(args.folder, args.out)
    print(f"{args.out}: {count} weights in float32, by the names that they have in {args.folder}")


def _llava(args: argparse.Namespace) -> None:
    from inlay.convert.llava import import_llava
    from inlay.convert.verify import verify

    import_llava(args.model, args.dir, max_shard_size=args.max_shard_size)
    verify(args.dir)


def _split(args: argparse.Namespace) -> None:
    from inlay.convert.split import split

    split(args.src, args.dst)


def _verify(args: argparse.Namespace) -> None:
    from inlay.app.export.run import verify_export

    verify_export(args.dir, args.base)
