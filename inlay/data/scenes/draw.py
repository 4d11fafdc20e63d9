"""Scenes of a few coloured shapes: what is in the picture, its pixels, and exact masks.

Everything follows from a seed. A thing stands near the middle of a cell of a grid, and no two
overlap. In a scene that is talked about, each has a row and a column of its own: "left of" and
"above" are never a matter of taste.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

SIZE = 96
"""Width and height of a picture in pixels."""

COLOURS = {
    "red": (214, 40, 40),
    "orange": (245, 136, 24),
    "yellow": (242, 214, 48),
    "green": (44, 158, 62),
    "cyan": (52, 200, 212),
    "blue": (44, 82, 216),
    "purple": (126, 48, 168),
    "pink": (246, 130, 186),
    "brown": (140, 84, 44),
    "white": (236, 236, 236),
}
SHAPES = (
    *("circle", "square", "triangle", "star", "cross", "ring"),
    *("diamond", "moon", "bar", "arrow"),
)
NEW_SHAPE = "heart"
"""A shape that only the scenes with a twist hold: for a trained model to learn."""
BACKGROUNDS = ("plain", "gradient", "stripes", "noise")

GRID = 4
"""Rows and columns of the grid."""
MAX_OBJECTS = GRID
"""Most things of a scene whose things share neither row nor column."""
MIN_RADIUS, MAX_RADIUS = 7.5, 11.0
_CELL = SIZE / GRID
_SHIFT = 2.0
_CROWDED_SHIFT = 1.0
_SUPERSAMPLING = 4
_JITTER = 20
_TURN = 8.0


@dataclass(frozen=True, slots=True)
class Thing:
    """An object of a scene.

    Attributes:
        shape: one of ``SHAPES``, or ``NEW_SHAPE``; empty if it has no name.
        colour: a key of ``COLOURS``; empty if it has no name.
        x, y: centre in pixels, y downward.
        radius: of the circle around it, in pixels.
        angle: rotation in degrees.
        rgb: the colour it is filled with, near ``COLOURS[colour]``.
        outline: of a shape without a name: its corners, in a circle of radius 1.
    """

    shape: str
    colour: str
    x: float
    y: float
    radius: float
    angle: float
    rgb: tuple[int, int, int]
    outline: tuple[tuple[float, float], ...] = ()

    @property
    def pair(self) -> tuple[str, str]:
        """Colour and shape."""
        return self.colour, self.shape


@dataclass(frozen=True, slots=True)
class Scene:
    """A background, and things in cells of their own."""

    background: str
    background_seed: int
    things: tuple[Thing, ...]


def random_scene(rng: random.Random, pairs: list[tuple[str, str]]) -> Scene:
    """Draw a scene by lot, each thing in a row and a column of its own, listed from left to right.

    Args:
        rng: the only source of chance.
        pairs: colour and shape of the objects, one to ``MAX_OBJECTS``.
    """
    columns, rows = (rng.sample(range(GRID), len(pairs)) for _ in range(2))
    things = [
        _thing(rng, pair, named_tone(rng, pair[0]), column, row, _SHIFT)
        for pair, column, row in zip(pairs, columns, rows, strict=True)
    ]
    things.sort(key=lambda t: t.x)
    return Scene(rng.choice(BACKGROUNDS), rng.getrandbits(32), tuple(things))


def crowded_scene(
    rng: random.Random, pairs: list[tuple[str, str]], tones: list[tuple[int, int, int]]
) -> Scene:
    """Draw a scene by lot, each thing in a cell of its own.

    Args:
        rng: the only source of chance.
        pairs: colour and shape of the objects, at most one for every cell; an empty shape is drawn
            by lot.
        tones: what each is filled with.
    """
    cells = rng.sample(range(GRID * GRID), len(pairs))
    things = [
        _thing(rng, pair, tone, cell % GRID, cell // GRID, _CROWDED_SHIFT)
        for pair, tone, cell in zip(pairs, tones, cells, strict=True)
    ]
    return Scene(rng.choice(BACKGROUNDS), rng.getrandbits(32), tuple(things))


def named_tone(rng: random.Random, colour: str) -> tuple[int, int, int]:
    """Return RGB near that of a key of ``COLOURS``."""
    red, green, blue = (
        min(255, max(0, c + rng.randint(-_JITTER, _JITTER))) for c in COLOURS[colour]
    )
    return red, green, blue


def _thing(
    rng: random.Random,
    pair: tuple[str, str],
    rgb: tuple[int, int, int],
    column: int,
    row: int,
    shift: float,
) -> Thing:
    colour, shape = pair
    return Thing(
        shape=shape,
        colour=colour,
        x=_CELL * (column + 0.5) + rng.uniform(-shift, shift),
        y=_CELL * (row + 0.5) + rng.uniform(-shift, shift),
        radius=rng.uniform(MIN_RADIUS, MAX_RADIUS),
        angle=rng.uniform(-_TURN, _TURN),
        rgb=rgb,
        outline=() if shape else _random_outline(rng),
    )


def draw(scene: Scene) -> Image.Image:
    """Return the picture, RGB ``[SIZE, SIZE]``, edges antialiased."""
    pixels = _background(scene).astype(np.float32)
    for thing in scene.things:
        cover = coverage(thing)[..., None]
        pixels = pixels * (1 - cover) + np.array(thing.rgb, np.float32) * cover
    return Image.fromarray(np.rint(pixels).astype(np.uint8), "RGB")


def mask(thing: Thing) -> np.ndarray:
    """Return the pixels at least half covered by ``thing``: bool ``[SIZE, SIZE]``."""
    return coverage(thing) >= 0.5


def coverage(thing: Thing) -> np.ndarray:
    """Return how much of every pixel ``thing`` covers: float32 ``[SIZE, SIZE]`` in 0..1."""
    scale = _SUPERSAMPLING
    x0, y0 = (int(c - thing.radius) - 1 for c in (thing.x, thing.y))
    side = 2 * int(thing.radius) + 5
    canvas = Image.new("L", (side * scale, side * scale), 0)
    pen = ImageDraw.Draw(canvas)
    x, y, r = ((v * scale) for v in (thing.x - x0, thing.y - y0, thing.radius))
    if thing.shape in ("circle", "ring", "moon"):
        pen.ellipse((x - r, y - r, x + r, y + r), fill=255)
        if thing.shape != "circle":
            inner, aside = (0.55 * r, 0.0) if thing.shape == "ring" else (0.8 * r, 0.5 * r)
            x += aside
            pen.ellipse((x - inner, y - inner, x + inner, y + inner), fill=0)
    else:
        turn = math.radians(thing.angle)
        sin, cos = math.sin(turn), math.cos(turn)
        pen.polygon(
            [
                (x + r * (u * cos - v * sin), y + r * (u * sin + v * cos))
                for u, v in thing.outline or _OUTLINES[thing.shape]
            ],
            fill=255,
        )
    small = np.asarray(canvas.resize((side, side), Image.Resampling.BOX), np.float32) / 255
    full = np.zeros((SIZE, SIZE), np.float32)
    top, left, bottom, right = max(y0, 0), max(x0, 0), min(y0 + side, SIZE), min(x0 + side, SIZE)
    full[top:bottom, left:right] = small[top - y0 : bottom - y0, left - x0 : right - x0]
    return full


def _regular(points: int, radii: tuple[float, ...]) -> list[tuple[float, float]]:
    """Corners on circles of ``radii`` in turn, the first one on top, in a unit circle."""
    angles = [2 * math.pi * i / points - math.pi / 2 for i in range(points)]
    return [
        (radii[i % len(radii)] * math.cos(a), radii[i % len(radii)] * math.sin(a))
        for i, a in enumerate(angles)
    ]


def _random_outline(rng: random.Random) -> tuple[tuple[float, float], ...]:
    """Corners at even angles, near or far from the middle by lot."""
    corners = rng.randint(5, 11)
    return tuple(_regular(corners, tuple(rng.uniform(0.35, 1) for _ in range(corners))))


def _heart() -> list[tuple[float, float]]:
    """The curve x = 16 sin^3 t, y = 13 cos t - 5 cos 2t - 2 cos 3t - cos 4t, in a unit circle."""
    steps = [2 * math.pi * i / 40 for i in range(40)]
    return [
        (
            16 * math.sin(t) ** 3 / 17,
            -(13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)) / 17,
        )
        for t in steps
    ]


_C = 0.32
_L = math.sqrt(1 - _C * _C)
_S = math.sqrt(0.5)
_OUTLINES: dict[str, list[tuple[float, float]]] = {
    "square": [(-_S, -_S), (_S, -_S), (_S, _S), (-_S, _S)],
    "triangle": _regular(3, (1.0,)),
    "star": _regular(10, (1.0, 0.42)),
    "cross": [
        *((-_C, -_L), (_C, -_L), (_C, -_C), (_L, -_C), (_L, _C), (_C, _C)),
        *((_C, _L), (-_C, _L), (-_C, _C), (-_L, _C), (-_L, -_C), (-_C, -_C)),
    ],
    "diamond": [(0, -1), (0.6, 0), (0, 1), (-0.6, 0)],
    "bar": [(-0.94, -0.3), (0.94, -0.3), (0.94, 0.3), (-0.94, 0.3)],
    "arrow": [(0, -1), (0.8, 0), (0.3, 0), (0.3, 0.9), (-0.3, 0.9), (-0.3, 0), (-0.8, 0)],
    NEW_SHAPE: _heart(),
}


def _background(scene: Scene) -> np.ndarray:
    """uint8 ``[SIZE, SIZE, 3]`` in dark tones near grey: no object has them."""
    rng = np.random.default_rng(scene.background_seed)
    base, other = (_tone(rng) for _ in range(2))
    rows, columns = np.mgrid[0:SIZE, 0:SIZE].astype(np.float32)
    turn = rng.uniform(0, 2 * math.pi)
    along = math.cos(turn) * columns + math.sin(turn) * rows
    if scene.background == "gradient":
        share = (along - along.min()) / (along.max() - along.min())
    elif scene.background == "stripes":
        width = rng.uniform(6, 16)
        share = (np.floor(along / width) % 2).astype(np.float32)
    else:
        share = np.zeros((SIZE, SIZE), np.float32)
    pixels = base + (other - base) * share[..., None]
    if scene.background == "noise":
        pixels = pixels + rng.normal(0, 10, (SIZE, SIZE, 1))
    return np.clip(pixels, 0, 255).astype(np.uint8)


def _tone(rng: np.random.Generator) -> np.ndarray:
    return np.clip(rng.uniform(5, 85) + rng.uniform(-9, 9, 3), 0, 255)
