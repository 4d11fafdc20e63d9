"""Scenes as data sets: which combinations a split shows, rows, files.

A row is in LLaVA's layout, with what was drawn beside it: ``caption``, its ``phrases``, and the
``objects`` with boxes and exact masks in COCO's run lengths.
"""

from __future__ import annotations

import colorsys
import json
import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from inlay.core.errors import ConfigError, did_you_mean
from inlay.data.scenes.draw import (
    COLOURS,
    NEW_SHAPE,
    SHAPES,
    SIZE,
    Scene,
    crowded_scene,
    draw,
    mask,
    named_tone,
    random_scene,
)
from inlay.data.scenes.language import (
    CAPTION_REQUEST,
    HELD_OUT_PAIRS,
    LAYOUT_REQUESTS,
    NAMING_REQUEST,
    PAIRS,
    Pair,
    Question,
    caption,
    layout,
    naming,
    questions,
    shows_held_out_relation,
)

SPLITS = ("train", "seen", "pairs", "relations", "twist")
"""``train`` and ``seen`` hold no held-out combination; every scene of ``pairs`` shows a held-out
pair, every scene of ``relations`` a held-out relation of pairs that are not. A scene of ``twist``
shows a ``NEW_SHAPE``."""
TEST_SPLITS = ("seen", "pairs", "relations")

_SHOWN = tuple(pair for pair in PAIRS if pair not in HELD_OUT_PAIRS)
_COUNTS = (1, 2, 3, 3, 4, 4)
_CROWD = (6, 16)
_LAYOUT_SHARE = 0.35
_CAPTION_SHARE = 0.15
_NAMING_SHARE = 0.2
_APART = 60.0
"""Distance in RGB from which on a tone is not taken for a colour's."""


@dataclass(frozen=True, slots=True)
class Example:
    """A scene and what is asked about it; every question of a test split but ``count`` is about a
    held-out combination (``seen``: none is)."""

    scene: Scene
    questions: list[Question]


def example(split: str, seed: int, index: int) -> Example:
    """Return number ``index`` of a split: the same arguments, the same scene and questions.

    Raises:
        ConfigError: there is no such split.
    """
    if split not in SPLITS:
        raise ConfigError(
            f"there is no split '{split}'.{did_you_mean(split, SPLITS)} Known: {', '.join(SPLITS)}."
        )
    rng = random.Random(f"{split}/{seed}/{index}")
    scene = _scene(rng, split)
    shapes = (*SHAPES, NEW_SHAPE) if split == "twist" else SHAPES
    asked = questions(scene, rng, shapes)
    if split in ("train", "seen", "twist"):
        return Example(scene, [q for q in asked if not q.held_out])
    return Example(scene, [q for q in asked if q.held_out or q.kind == "count"])


def _scene(rng: random.Random, split: str) -> Scene:
    count = rng.choice(_COUNTS[1:] if split == "relations" else _COUNTS)
    while True:
        pairs = _pairs(rng, count)
        if split == "pairs":
            pairs[0] = rng.choice(sorted(HELD_OUT_PAIRS))
        elif split == "twist":
            pairs[0] = (rng.choice(list(COLOURS)), NEW_SHAPE)
        scene = random_scene(rng, pairs)
        if split == "pairs" or shows_held_out_relation(scene) == (split == "relations"):
            return scene


def _pairs(rng: random.Random, count: int) -> list[Pair]:
    """Pairs by lot; nearly half share colour, shape or both with one before them, so that neither
    alone tells two things apart."""
    chosen: list[Pair] = []
    while len(chosen) < count:
        pool = _SHOWN
        if chosen and rng.random() < 0.45:
            colour, shape = rng.choice(chosen)
            same = rng.choice(("colour", "shape", "shape", "both"))
            pool = tuple(
                p
                for p in _SHOWN
                if (p[0] == colour or same == "shape") and (p[1] == shape or same == "colour")
            )
        chosen.append(rng.choice(pool))
    return chosen


def row(split: str, seed: int, index: int) -> tuple[dict[str, Any], Scene]:
    """Return an example as a row of a data set, and its scene.

    A row asks for the caption, for some things by name, or one question after the other; or it asks
    to read a crowded scene, which has neither caption nor phrases. ``caption`` names some things in
    any order where that is asked for, and in half of the rows with questions; those of the splits
    for tests always describe everything.
    """
    made = example(split, seed, index)
    text, phrases = caption(made.scene)
    turns = [(q.text, q.answer) for q in made.questions]
    rng = random.Random(f"{split}/{seed}/{index}/turns")
    scene, lot = made.scene, rng.random()
    crowded = 0.0 if split == "twist" else _LAYOUT_SHARE  # a crowd shows nothing new
    if lot < crowded:
        what = rng.choice(list(LAYOUT_REQUESTS))
        scene, text, phrases = crowd(rng, what), "", []
        turns = [(LAYOUT_REQUESTS[what], layout(scene, what))]
    elif lot < crowded + _CAPTION_SHARE or not turns:
        turns = [(CAPTION_REQUEST, text)]
    elif split not in TEST_SPLITS and lot < crowded + _CAPTION_SHARE + _NAMING_SHARE:
        text, phrases = naming(scene, rng)
        turns = [(NAMING_REQUEST, text)]
    elif split not in TEST_SPLITS and rng.random() < 0.5:
        text, phrases = naming(scene, rng)
    spoken = []
    for number, (question, answer) in enumerate(turns):
        value = question if number else f"<image>\n{question}"
        spoken += [{"from": "human", "value": value}, {"from": "gpt", "value": answer}]
    name = f"{split}_{index:06d}"
    found = {
        "id": name,
        "image": f"{name}.png",
        "width": SIZE,
        "height": SIZE,
        "conversations": spoken,
        "caption": text,
        "phrases": [
            {"text": text[p.start : p.end], "start": p.start, "end": p.end, "object": p.thing}
            for p in phrases
        ],
        "objects": [_object(thing) for thing in scene.things],
    }
    return found, scene


def crowd(rng: random.Random, what: str) -> Scene:
    """Return a scene of many things for the layout ``what``.

    Read for shapes, they have tones without a name; read for colours, shapes without a name: so
    each is learned without the other, and no held-out pair is shown.
    """
    pairs = [rng.choice(_SHOWN) for _ in range(rng.randint(*_CROWD))]
    if what == "shape":
        tones = [_unnamed_tone(rng, shape) for _, shape in pairs]
        return crowded_scene(rng, [("", shape) for _, shape in pairs], tones)
    tones = [named_tone(rng, colour) for colour, _ in pairs]
    if what == "colour":
        pairs = [(colour, "") for colour, _ in pairs]
    return crowded_scene(rng, pairs, tones)


def _unnamed_tone(rng: random.Random, shape: str) -> tuple[int, int, int]:
    """Any bright tone that cannot be taken for a colour whose pair with ``shape`` is held out."""
    held_out = [COLOURS[colour] for colour, other in HELD_OUT_PAIRS if other == shape]
    while True:
        hsv = rng.random(), rng.uniform(0.3, 1), rng.uniform(0.6, 1)
        red, green, blue = (round(255 * c) for c in colorsys.hsv_to_rgb(*hsv))
        if all(math.dist((red, green, blue), tone) > _APART for tone in held_out):
            return red, green, blue


def _object(thing: Any) -> dict[str, Any]:
    pixels = mask(thing)
    ys, xs = (np.flatnonzero(pixels.any(axis=axis)) for axis in (1, 0))
    left, top = int(xs[0]), int(ys[0])
    return {
        "colour": thing.colour,
        "shape": thing.shape,
        "bbox": [left, top, int(xs[-1]) - left + 1, int(ys[-1]) - top + 1],
        "segmentation": run_lengths(pixels),
    }


def run_lengths(pixels: np.ndarray) -> dict[str, list[int]]:
    """Return a mask in COCO's uncompressed run lengths.

    Args:
        pixels: bool ``[H, W]``.

    Returns:
        ``size`` ``[H, W]`` and ``counts``: lengths of runs of False and True in turn, beginning
        with False (perhaps 0), column by column (COCO's ``mask.py``).
    """
    flat = pixels.ravel(order="F")
    borders = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    counts = np.diff(borders, prepend=0, append=flat.size).tolist()
    return {"size": list(pixels.shape), "counts": [0, *counts] if flat[0] else counts}


def write(folder: Path, split: str, count: int, seed: int) -> Path:
    """Write ``<split>.jsonl``, and its pictures as PNG files in ``images/``.

    Args:
        folder: made if need be.
        count: rows.

    Returns:
        The path of the rows.
    """
    pictures = folder / "images"
    pictures.mkdir(parents=True, exist_ok=True)
    rows = folder / f"{split}.jsonl"
    with open(rows, "w", encoding="utf-8") as lines:
        for found in _written(pictures, split, count, seed):
            lines.write(json.dumps(found) + "\n")
    return rows


def _written(pictures: Path, split: str, count: int, seed: int) -> Iterator[dict[str, Any]]:
    for index in range(count):
        found, scene = row(split, seed, index)
        draw(scene).save(pictures / found["image"])
        yield found
