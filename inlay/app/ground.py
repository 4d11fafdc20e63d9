"""Point at phrases in one picture: a table, an overlay, masks as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from inlay.chat.overlay import colour_words, mask_records, palette, write_masks
from inlay.chat.overlay_file import output_path, overlay_path, write_overlay
from inlay.chat.pictures import read_picture
from inlay.core.errors import DataError
from inlay.core.rle import box_of, encode_mask

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

STDOUT = "-"
WIDTH = 120
"""Columns of the table where there is no terminal."""


def ground(
    picture: str,
    phrases: Sequence[str],
    *,
    model: str | None = None,
    checkpoint: str | None = None,
    config: str | None = None,
    training_free: bool = False,
    dtype: str = "auto",
    out: str | None = None,
    json_path: str | None = None,
    console: Console | None = None,
) -> None:
    """Ground phrases in a picture, each on its own; show a table and write the overlay.

    Args:
        picture: file or ``http(s)`` address.
        model, checkpoint, config, training_free, dtype: as ``open_grounder`` takes them.
        out: file of the overlay; None: ``<stem>_grounded.png`` in the working folder.
        json_path: also write ``{phrase, score, rle}`` of each mask; ``"-"`` prints it.
        console: where the table goes.

    Raises:
        DataError: the picture cannot be read, an empty phrase, or a file that cannot be written.
        InlayError: the grounder cannot be opened, or a phrase is too long for it.
    """
    console = console or Console(stderr=json_path == STDOUT)
    phrases = _checked(phrases)
    path = overlay_path(out, picture)
    masks_path = None if json_path in (None, STDOUT) else output_path(json_path, picture)
    image = read_picture(picture)

    from inlay.app.grounder import open_grounder

    if model is not None and checkpoint is None and config is None and not training_free:
        _say(console, f"no --checkpoint: {model} points without training")
    grounder = open_grounder(model, checkpoint, config, training_free=training_free, dtype=dtype)
    masks, scores = grounder.phrases(image, phrases)
    _show(console, phrases, masks, scores)
    write_overlay(path, image, masks, phrases, scores)
    _say(console, f"overlay: {path}")
    if json_path == STDOUT:
        print(json.dumps(mask_records(phrases, scores, masks), ensure_ascii=False, indent=2))
    if masks_path is not None:
        _write(masks_path, phrases, masks, scores)
        _say(console, f"masks: {masks_path}")


def _say(console: Console, line: str) -> None:
    console.print(line, markup=False, highlight=False, soft_wrap=True)


def _checked(phrases: Sequence[str]) -> list[str]:
    found = [" ".join(phrase.split()) for phrase in phrases]
    if "" in found:
        raise DataError(
            f"phrase {found.index('') + 1} of {len(found)} is empty: expected words that name "
            "something in the picture"
        )
    return found


def _show(
    console: Console,
    phrases: Sequence[str],
    masks: NDArray[np.bool_],
    scores: NDArray[np.float32],
) -> None:
    """Print a table; each phrase in the colour of its mask."""
    from rich.box import SIMPLE

    table = Table("phrase", box=SIMPLE)
    for title in ("score", "area %", "box (left, top, right, bottom)"):
        table.add_column(title, justify="right", no_wrap=True)
    for phrase, colour, mask, score in zip(
        phrases, palette(len(phrases)), masks, scores, strict=True
    ):
        box = box_of(encode_mask(mask))
        corners = "-" if box is None else ", ".join(f"{edge:.0f}" for edge in box)
        words = colour_words(phrase, [(0, len(phrase))], [colour])
        table.add_row(words, f"{score:.2f}", f"{100 * mask.mean():.1f}", corners)
    if not console.is_terminal:
        console.width = WIDTH
    console.print(table)


def _write(
    path: Path,
    phrases: Sequence[str],
    masks: NDArray[np.bool_],
    scores: NDArray[np.float32],
) -> None:
    try:
        write_masks(path, phrases, scores, masks)
    except OSError as error:
        raise DataError(f"the masks cannot be written to {path}: {error}") from error
