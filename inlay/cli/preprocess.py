"""``inlay preprocess``: public data sets become rows to train on."""

from __future__ import annotations

import argparse
import sys
from datetime import date
from pathlib import Path

NAME = "preprocess"
HELP = "turn arXiv's metadata or RefCOCO into rows to train on"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    jobs = parser.add_subparsers(dest="job", required=True, metavar="JOB")
    job = jobs.add_parser("arxiv", help="papers of some categories since a date, as a JSON array")
    job.add_argument("src_file", help="arXiv's metadata: one JSON object a line")
    job.add_argument("dst_file", help="JSON file to write")
    default = ["cs.AI", "cs.CL", "cs.CV"]
    job.add_argument(
        "--categories", nargs="+", default=default, metavar="NAME", help=f"({' '.join(default)})"
    )
    job.add_argument(
        "--start-date",
        type=date.fromisoformat,
        default=date(2020, 1, 1),
        metavar="YYYY-MM-DD",
        help="day of the oldest update (2020-01-01)",
    )
    job.set_defaults(call=_arxiv)
    job = jobs.add_parser("refcoco", help="expressions and boxes as LLaVA's conversations")
    add = job.add_argument
    add("--ann-path", default="data/refcoco_annotations", metavar="DIR", help="of the annotations")
    add(
        "--image-path",
        default="data/llava_data/llava_images/coco/train2017",
        metavar="DIR",
        help="of COCO's pictures",
    )
    add("--save-path", default="./", metavar="DIR", help="where train.json goes (./)")
    job.set_defaults(call=_refcoco)


def run(args: argparse.Namespace) -> None:
    args.call(args)


def _arxiv(args: argparse.Namespace) -> None:
    from inlay.app.preprocess.arxiv import preprocess_arxiv

    kept = preprocess_arxiv(args.src_file, args.dst_file, args.categories, args.start_date, _note)
    print(f"Save to {args.dst_file}\n{kept} items")


def _refcoco(args: argparse.Namespace) -> None:
    from inlay.app.preprocess.refcoco import preprocess_refcoco

    count = preprocess_refcoco(args.ann_path, args.image_path, args.save_path, _note)
    print(f"save to {Path(args.save_path) / 'train.json'} with {count} items.")


def _note(text: str) -> None:
    print(text, file=sys.stderr)
