"""What can be said about a scene: its caption with the phrases in it, questions and answers.

Some combinations are *held out*: training pictures never show them and training texts never name
them, while every part of them occurs in other combinations.

- ``HELD_OUT_PAIRS``: a colour and a shape.
- ``held_out_relation``: two pairs and how they stand to each other; about one in eleven. A crowded
  scene, which is read cell by cell and never talked about, may show one.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from inlay.data.scenes.draw import COLOURS, GRID, SHAPES, SIZE, Scene, Thing

Pair = tuple[str, str]

HELD_OUT_PAIRS: frozenset[Pair] = frozenset(
    {
        ("red", "star"),
        ("orange", "ring"),
        ("yellow", "cross"),
        ("green", "circle"),
        ("cyan", "triangle"),
        ("purple", "square"),
        ("white", "moon"),
        ("pink", "arrow"),
    }
)
PAIRS: tuple[Pair, ...] = tuple((colour, shape) for colour in COLOURS for shape in SHAPES)
NUMBERS = ("zero", "one", "two", "three", "four")
RELATIONS = {"left of": "right of", "above": "below"}
"""A relation and its opposite; the key holds where the first one's coordinate is smaller."""
CAPTION_REQUEST = "describe the picture."
NAMING_REQUEST = "what is there?"
LAYOUT_REQUESTS = {
    "shape": "read the shapes row by row.",
    "colour": "read the colours row by row.",
    "pair": "read the objects row by row.",
}
"""What a layout names of every thing, and how one asks for it."""


@dataclass(frozen=True, slots=True)
class Phrase:
    """Words of a caption that stand for one thing: ``text[start:end]``; ``thing`` is its index."""

    start: int
    end: int
    thing: int


@dataclass(frozen=True, slots=True)
class Question:
    """A question with its short answer.

    Attributes:
        kind: ``colour``, ``shape``, ``count``, ``exists``, ``place``, ``relation``, ``compare``.
        pairs: the colours and shapes that question and answer name together.
        relation: a key of ``RELATIONS`` if it is about ``pairs[0]`` standing so to ``pairs[1]``.
    """

    kind: str
    text: str
    answer: str
    pairs: tuple[Pair, ...] = ()
    relation: str | None = None

    @property
    def held_out(self) -> bool:
        """Whether it is about a held-out combination."""
        if any(pair in HELD_OUT_PAIRS for pair in self.pairs):
            return True
        if self.relation is None:
            return False
        first, second = self.pairs
        return held_out_relation(first, second, self.relation)


def held_out_relation(first: Pair, second: Pair, relation: str) -> bool:
    """Whether it is held out that ``first`` stands in ``relation``, a key of ``RELATIONS``, to
    ``second``."""
    if first not in _NUMBER or second not in _NUMBER:
        return False
    axis = list(RELATIONS).index(relation)
    return (7 * _NUMBER[first] + 5 * _NUMBER[second] + 3 * axis) % 11 == 0


_NUMBER = {pair: number for number, pair in enumerate(PAIRS)}


def facts(scene: Scene) -> list[tuple[Pair, Pair, str]]:
    """Return what holds between any two things: ``(first, second, key of RELATIONS)``."""
    found = []
    for i, one in enumerate(scene.things):
        for other in scene.things[i + 1 :]:
            found.append((one.pair, other.pair, "left of"))
            upper, lower = (one, other) if one.y < other.y else (other, one)
            found.append((upper.pair, lower.pair, "above"))
    return found


def shows_held_out_pair(scene: Scene) -> bool:
    return any(thing.pair in HELD_OUT_PAIRS for thing in scene.things)


def shows_held_out_relation(scene: Scene) -> bool:
    return any(held_out_relation(*fact) for fact in facts(scene))


def name(pair: Pair, article: str = "the") -> str:
    """``"the red circle"``, ``"a red circle"``, ``"an orange star"``."""
    if article == "a" and pair[0][0] in "aeiou":
        article = "an"
    return f"{article} {pair[0]} {pair[1]}"


def plural(shape: str) -> str:
    return shape + ("es" if shape.endswith("s") else "s")


def caption(scene: Scene) -> tuple[str, list[Phrase]]:
    """Describe every thing.

    Two things stand in the relation of the axis on which they are farther apart, the left or the
    upper one first; any other number is listed from left to right.
    """
    order = list(range(len(scene.things)))
    if len(order) != 2:
        return _listed(scene, order)
    one, other = scene.things
    if abs(one.y - other.y) <= abs(one.x - other.x):
        return _listed(scene, order, " left of ")
    return _listed(scene, sorted(order, key=lambda i: scene.things[i].y), " above ")


def naming(scene: Scene, rng: random.Random) -> tuple[str, list[Phrase]]:
    """Name some things in any order, each with its place.

    What word stands where then says nothing about where its thing stands, so that a model has to
    look for it; and once a thing is named, it has to look at that very thing. Only things that
    their name tells from all others are named; without one, it is the caption.
    """
    alone = distinct(scene)
    if not alone:
        return caption(scene)
    chosen = rng.sample(alone, rng.randint(1, len(alone)))
    order = [scene.things.index(thing) for thing in chosen]
    return _listed(scene, order, places=True)


def _listed(
    scene: Scene, order: list[int], last: str = " and ", places: bool = False
) -> tuple[str, list[Phrase]]:
    """Things by their numbers, ``last`` before the last one."""
    text, phrases = "", []
    for position, number in enumerate(order):
        if position:
            text += last if position == len(order) - 1 else ", "
        thing = scene.things[number]
        phrase = name(thing.pair, "a")
        phrases.append(Phrase(len(text), len(text) + len(phrase), number))
        text += f"{phrase} {place(thing)}" if places else phrase
    return text + ".", phrases


def place(thing: Thing) -> str:
    """``"row one column four"``."""
    row, column = (NUMBERS[1 + int(c * GRID / SIZE)] for c in (thing.y, thing.x))
    return f"row {row} column {column}"


def layout(scene: Scene, what: str) -> str:
    """Read the cells of the grid row by row: the shape, the colour or both of what stands there, or
    ``empty``.

    Args:
        what: a key of ``LAYOUT_REQUESTS``.
    """
    cells = ["empty"] * (GRID * GRID)
    for thing in scene.things:
        row, column = (int(c * GRID / SIZE) for c in (thing.y, thing.x))
        name_of = " ".join(thing.pair) if what == "pair" else getattr(thing, what)
        cells[row * GRID + column] = name_of
    return ", ".join(cells) + "."


def questions(scene: Scene, rng: random.Random, shapes: tuple[str, ...] = SHAPES) -> list[Question]:
    """Return questions of every kind that the scene allows, chosen by lot, in random order: one for
    a shape, two of the other kinds if they differ.

    Args:
        shapes: the shapes that questions name.
    """
    found = [ask(scene, rng, shapes) for ask in (_shape, *_HARD, *_HARD)]
    asked = list(dict.fromkeys(question for question in found if question is not None))
    rng.shuffle(asked)
    return asked


def _colour(scene: Scene, rng: random.Random, shapes: tuple[str, ...]) -> Question | None:
    thing = _only(scene, rng, lambda t: t.shape)
    if thing is None:
        return None
    return Question("colour", f"what colour is the {thing.shape}?", thing.colour, (thing.pair,))


def _shape(scene: Scene, rng: random.Random, shapes: tuple[str, ...]) -> Question | None:
    thing = _only(scene, rng, lambda t: t.colour)
    if thing is None:
        return None
    text = f"what shape is the {thing.colour} object?"
    return Question("shape", text, thing.shape, (thing.pair,))


def _count(scene: Scene, rng: random.Random, shapes: tuple[str, ...]) -> Question:
    which = rng.choice(("shape", "colour", "all"))
    if which == "all":
        return Question("count", "how many objects are there?", NUMBERS[len(scene.things)])
    present = [getattr(thing, which) for thing in scene.things]
    names: tuple[str, ...] = shapes if which == "shape" else tuple(COLOURS)
    chosen = rng.choice(names) if rng.random() < 0.2 else rng.choice(present)
    what = plural(chosen) if which == "shape" else f"{chosen} objects"
    return Question("count", f"how many {what} are there?", NUMBERS[present.count(chosen)])


def _exists(scene: Scene, rng: random.Random, shapes: tuple[str, ...]) -> Question:
    present = [thing.pair for thing in scene.things]
    if rng.random() < 0.5:
        pair = rng.choice(present)
    else:
        near = [
            (colour, shape)
            for colour, _ in present
            for _, shape in present
            if (colour, shape) not in present
        ]
        far = [(colour, shape) for colour in COLOURS for shape in shapes]
        pair = rng.choice(near if near and rng.random() < 0.6 else far)
    answer = "yes" if pair in present else "no"
    return Question("exists", f"is there {name(pair, 'a')}?", answer, (pair,))


def _relation(scene: Scene, rng: random.Random, shapes: tuple[str, ...]) -> Question | None:
    """What stands left of a thing, where exactly one does."""
    possible = []
    for relation, opposite in RELATIONS.items():
        for here in distinct(scene):
            smaller = [t for t in scene.things if _before(t, here, relation)]
            larger = [t for t in scene.things if _before(here, t, relation)]
            if len(smaller) == 1:
                possible.append(
                    (here, smaller[0], relation, (smaller[0].pair, here.pair), relation)
                )
            if len(larger) == 1:
                possible.append((here, larger[0], opposite, (here.pair, larger[0].pair), relation))
    if not possible:
        return None
    here, there, word, pairs, relation = rng.choice(possible)
    text = f"what is {word} {name(here.pair)}?"
    return Question("relation", text, name(there.pair, "a"), pairs, relation)


def _compare(scene: Scene, rng: random.Random, shapes: tuple[str, ...]) -> Question | None:
    things = distinct(scene)
    if len(things) < 2:
        return None
    one, other = rng.sample(things, 2)
    relation = rng.choice(list(RELATIONS))
    answer = "yes" if _before(one, other, relation) else "no"
    if rng.random() < 0.5:
        text = f"is {name(one.pair)} {relation} {name(other.pair)}?"
    else:
        text = f"is {name(other.pair)} {RELATIONS[relation]} {name(one.pair)}?"
    return Question("compare", text, answer, (one.pair, other.pair), relation)


def _place(scene: Scene, rng: random.Random, shapes: tuple[str, ...]) -> Question | None:
    things = distinct(scene)
    if not things:
        return None
    thing = rng.choice(things)
    same = sum(other.shape == thing.shape for other in scene.things)
    called = f"the {thing.shape}" if same == 1 and rng.random() < 0.5 else name(thing.pair)
    text = f"where is {called}?"
    return Question("place", text, place(thing), (thing.pair,))


_HARD = (_colour, _count, _exists, _place, _relation, _compare)


def _only(scene: Scene, rng: random.Random, key: Callable[[Thing], str]) -> Thing | None:
    """A thing whose ``key`` no other thing shares."""
    counts = Counter(key(thing) for thing in scene.things)
    alone = [thing for thing in scene.things if counts[key(thing)] == 1]
    return rng.choice(alone) if alone else None


def distinct(scene: Scene) -> list[Thing]:
    """The things that their colour and shape tell from all others."""
    counts = Counter(thing.pair for thing in scene.things)
    return [thing for thing in scene.things if counts[thing.pair] == 1]


def _before(one: Thing, other: Thing, relation: str) -> bool:
    return one.x < other.x if relation == "left of" else one.y < other.y
