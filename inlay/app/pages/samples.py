"""Samples as a page of HTML: pictures, and every token with its id and whether it is trained."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from inlay.app.pages.page import picture, write_page
from inlay.app.pages.sample_view import Box, Piece, boxes, pieces
from inlay.core.types import ImageProcessor, Sample


def write_sample_page(
    path: Path,
    title: str,
    samples: Sequence[Sample],
    tokenizer: Any,
    processor: ImageProcessor | None,
    report: str,
    what: str = "trained",
) -> None:
    """Write a page that needs no other file.

    Args:
        report: what became of the rows.
        what: the tokens of the samples' masks are: ``"trained"`` or ``"grounded"``.
        processor: of samples with pictures.
    """
    shown = [
        {
            "number": number,
            "num_tokens": len(sample.ids),
            "share": f"{sample.mask.mean():.0%}",
            "parts": [_part(p) for p in pieces(sample, tokenizer, boxes(sample, processor))],
        }
        for number, sample in enumerate(samples)
    ]
    write_page(path, "samples.html", title=title, samples=shown, report=report, what=what)


def _part(part: Piece | Box) -> dict[str, Any]:
    if isinstance(part, Box):
        return {"label": str(part), **picture(part.ref)}
    return {
        "text": part.text,
        "ids": " ".join(map(str, part.ids)),
        "trained": part.trained,
        "special": part.special,
    }
