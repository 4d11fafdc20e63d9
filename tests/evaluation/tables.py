"""Tables of MMBench for tests, with real pictures of one colour."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import pandas as pd
from PIL import Image

COLOURS = {"red": (255, 0, 0), "blue": (0, 0, 255), "green": (0, 160, 0), "white": (255,) * 3}


def png(colour: str, size: tuple[int, int] = (24, 16), noise: int = 0) -> str:
    """A picture as base64; ``noise`` bytes make it large."""
    image = Image.new("RGB", size, COLOURS[colour])
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue() + b"\0" * noise).decode()


def colour_of(image: Image.Image) -> str:
    return next(name for name, rgb in COLOURS.items() if image.getpixel((0, 0)) == rgb)


def rotations(index: int, colour: str, **more: Any) -> list[dict[str, Any]]:
    """A question and its three copies, the options one place further in each."""
    names = list(COLOURS)
    rows = []
    for turn in range(4):
        turned = names[turn:] + names[:turn]
        rows.append(
            {
                "index": index + turn * 1_000_000,
                "question": "What colour is it?",
                "hint": None,
                **dict(zip("ABCD", turned, strict=True)),
                "answer": "ABCD"[turned.index(colour)],
                "category": "colour",
                "image": png(colour) if turn == 0 else str(index),
                "source": "drawn",
                "l2-category": "coarse_perception",
                "comment": None,
                "split": "dev",
                **more,
            }
        )
    return rows


def write_table(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Write rows as the public tables are written: by pandas, tab-separated."""
    pd.DataFrame(rows).to_csv(path, sep="\t", index=False)
    return path
