"""Drawn scenes: every word and every mask is held against the pixels, not against the drawing."""

from __future__ import annotations

import hashlib
import json
import math
import random
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from inlay.core.errors import ConfigError
from inlay.data.scenes.build import SPLITS, crowd, example, row, run_lengths, write
from inlay.data.scenes.draw import COLOURS, NEW_SHAPE, SHAPES, SIZE, draw, mask
from inlay.data.scenes.language import (
    CAPTION_REQUEST,
    HELD_OUT_PAIRS,
    LAYOUT_REQUESTS,
    NAMING_REQUEST,
    caption,
    facts,
    held_out_relation,
    naming,
)

WORDS = ["zero", "one", "two", "three", "four"]
PLURALS = {shape + ("es" if shape == "cross" else "s"): shape for shape in (*SHAPES, NEW_SHAPE)}


def decode(segmentation: dict[str, list[int]]) -> np.ndarray:
    """COCO's run lengths to a mask: runs of 0 and 1 in turn, column by column."""
    height, width = segmentation["size"]
    flat = np.zeros(height * width, bool)
    at = 0
    for number, length in enumerate(segmentation["counts"]):
        flat[at : at + length] = number % 2 == 1
        at += length
    assert at == height * width
    return flat.reshape(width, height).T


def test_a_seed_gives_the_same_scenes_and_another_seed_others() -> None:
    def pixels(seed: int) -> str:
        images = (draw(example("train", seed, index).scene).tobytes() for index in range(8))
        return hashlib.sha256(b"".join(images)).hexdigest()

    assert pixels(1) == pixels(1) != pixels(2)
    assert row("seen", 3, 4)[0] == row("seen", 3, 4)[0] != row("train", 3, 4)[0]


@pytest.mark.parametrize("split", SPLITS)
def test_masks_are_the_pixels_that_were_drawn(split: str) -> None:
    for index in range(60):
        found, scene = row(split, 0, index)
        picture = np.asarray(draw(scene), np.int16)
        assert picture.shape == (SIZE, SIZE, 3)
        covered = np.zeros((SIZE, SIZE), int)
        for thing in found["objects"]:
            inside = decode(thing["segmentation"])
            covered += inside
            if thing["colour"]:
                distance = np.abs(picture - np.array(COLOURS[thing["colour"]])).max(axis=2)
                assert np.median(distance[inside]) <= 20, "the jitter of a colour"
                assert nearest(np.median(picture[inside], axis=0)) == thing["colour"]
            x, y, width, height = thing["bbox"]
            box = np.zeros_like(inside)
            box[y : y + height, x : x + width] = True
            assert not (inside & ~box).any()
            assert inside.any(axis=0).sum() == width and inside.any(axis=1).sum() == height
        assert covered.max() == 1, "two objects overlap"
        # Without the things' pixels and their seams the picture is grey.
        spread = np.ptp(picture[~grown(covered > 0)].astype(int), axis=1)
        assert spread.max() <= 40


def nearest(rgb: np.ndarray) -> str:
    return min(COLOURS, key=lambda c: float(np.abs(rgb - np.array(COLOURS[c])).sum()))


def grown(inside: np.ndarray) -> np.ndarray:
    wide = np.pad(inside, 1)
    shifts = [(a, b) for a in (0, 1, 2) for b in (0, 1, 2)]
    return np.any([wide[a : a + SIZE, b : b + SIZE] for a, b in shifts], axis=0)


def test_shapes_look_as_they_are_called() -> None:
    """Share of the bounding circle that a shape covers, and its centre, by geometry."""
    star = 10 * 0.5 * 0.42 * np.sin(np.pi / 5)
    cross = 2 * (2 * 0.32) * (2 * np.sqrt(1 - 0.32**2)) - (2 * 0.32) ** 2
    ring = np.pi * (1 - 0.55**2)
    areas = {"circle": np.pi, "square": 2, "triangle": 3 * np.sqrt(3) / 4, "star": star}
    areas |= {"cross": cross, "ring": ring, "diamond": 1.2, "bar": 1.88 * 0.6}
    areas |= {"arrow": 0.8 + 0.6 * 0.9, "moon": np.pi - lens(1, 0.8, 0.5)}
    seen: set[str] = set()
    for index in range(40):
        for thing in example("train", 5, index).scene.things:
            seen.add(thing.shape)
            area = mask(thing).sum() / thing.radius**2
            assert area == pytest.approx(areas[thing.shape], rel=0.2), thing
            filled = mask(thing)[round(thing.y), round(thing.x)]
            assert filled == (thing.shape not in ("ring", "moon"))
    assert seen == set(SHAPES)


def lens(one: float, other: float, apart: float) -> float:
    """Area that two circles share, by their radii and the distance of their centres."""
    a = (apart**2 + one**2 - other**2) / (2 * apart * one)
    b = (apart**2 + other**2 - one**2) / (2 * apart * other)
    sides = (-apart + one + other) * (apart + one - other)
    sides *= (apart - one + other) * (apart + one + other)
    return one**2 * np.arccos(a) + other**2 * np.arccos(b) - 0.5 * np.sqrt(sides)


def test_training_never_shows_or_names_a_held_out_combination() -> None:
    shown: set[tuple[str, str]] = set()
    for index in range(1500):
        made = example("train", 0, index)
        pairs = {thing.pair for thing in made.scene.things}
        shown |= pairs
        assert not pairs & HELD_OUT_PAIRS
        assert not any(held_out_relation(*fact) for fact in facts(made.scene))
        said = " ".join(f"{q.text} {q.answer}" for q in made.questions)
        assert not [p for p in HELD_OUT_PAIRS if f"{p[0]} {p[1]}" in said]
        assert NEW_SHAPE not in said
    assert shown == {(c, s) for c in COLOURS for s in SHAPES} - HELD_OUT_PAIRS
    # Every part of what is held out occurs elsewhere.
    assert {c for c, _ in shown} == set(COLOURS) and {s for _, s in shown} == set(SHAPES)


def test_test_splits_are_about_what_is_held_out() -> None:
    for index in range(150):
        pairs = example("pairs", 0, index)
        assert any(t.pair in HELD_OUT_PAIRS for t in pairs.scene.things)
        relations = example("relations", 0, index)
        assert not any(t.pair in HELD_OUT_PAIRS for t in relations.scene.things)
        assert any(held_out_relation(*fact) for fact in facts(relations.scene))
        asked = [*pairs.questions, *relations.questions]
        assert all(q.held_out or q.kind == "count" for q in asked)
        twist = [t.pair for t in example("twist", 0, index).scene.things]
        assert any(shape == NEW_SHAPE for _, shape in twist) and not set(twist) & HELD_OUT_PAIRS


def answer(question: str, things: list[dict[str, Any]]) -> str | None:
    """Answer from what the masks show; None for a question of unknown form."""

    def pick(text: str) -> list[dict[str, Any]]:
        words = text.split()
        return [t for t in things if all(w in (t["colour"], t["shape"]) for w in words)]

    def before(one: dict[str, Any], other: dict[str, Any], word: str) -> bool:
        axis, sign = {"left": (0, 1), "right": (0, -1), "above": (1, 1), "below": (1, -1)}[word]
        return sign * (other["at"][axis] - one["at"][axis]) > 0

    def name(thing: dict[str, Any]) -> str:
        article = "an" if thing["colour"] == "orange" else "a"
        return f"{article} {thing['colour']} {thing['shape']}"

    if found := re.fullmatch(r"what colour is the (\w+)\?", question):
        (thing,) = pick(found[1])
        return thing["colour"]
    if found := re.fullmatch(r"what shape is the (\w+) object\?", question):
        (thing,) = pick(found[1])
        return thing["shape"]
    if found := re.fullmatch(r"how many (?:(\w+) )?(\w+) are there\?", question):
        words = [w for w in (found[1], PLURALS.get(found[2])) if w]
        return WORDS[len(pick(" ".join(words)))]
    if found := re.fullmatch(r"where is the (\w+(?: \w+)?)\?", question):
        ((x, y),) = [thing["at"] for thing in pick(found[1])]
        return f"row {WORDS[int(y // 24) + 1]} column {WORDS[int(x // 24) + 1]}"
    if found := re.fullmatch(r"is there an? (\w+ \w+)\?", question):
        return "yes" if pick(found[1]) else "no"
    if found := re.fullmatch(r"is the (\w+ \w+) (\w+)(?: of)? the (\w+ \w+)\?", question):
        (one,), (other,) = pick(found[1]), pick(found[3])
        return "yes" if before(one, other, found[2]) else "no"
    if found := re.fullmatch(r"what is (\w+)(?: of)? the (\w+ \w+)\?", question):
        (here,) = pick(found[2])
        (there,) = [t for t in things if before(t, here, found[1])]
        return name(there)
    return None


def test_answers_follow_from_the_masks() -> None:
    kinds: dict[str, set[str]] = {}
    for split in SPLITS:
        for index in range(120):
            made = example(split, 7, index)
            found, _ = row(split, 7, index)
            if not found["caption"]:  # a crowded scene, which is only read
                continue
            things = found["objects"]
            for thing in things:
                ys, xs = np.nonzero(decode(thing["segmentation"]))
                thing["at"] = (xs.mean(), ys.mean())
            for question in made.questions:
                assert answer(question.text, things) == question.answer, question
                kinds.setdefault(question.kind, set()).add(question.answer)
    assert set(kinds) == {"colour", "shape", "count", "exists", "place", "relation", "compare"}
    assert kinds["exists"] == kinds["compare"] == {"yes", "no"}
    assert kinds["count"] == set(WORDS)
    assert kinds["colour"] == set(COLOURS) and kinds["shape"] == {*SHAPES, NEW_SHAPE}


def test_a_phrase_of_a_caption_is_its_object() -> None:
    for index in range(100):
        found, _ = row("train", 2, index)
        if not found["caption"]:
            assert not found["phrases"] and len(found["objects"]) >= 6
            continue
        assert 1 <= len(found["phrases"]) <= len(found["objects"]) <= 4
        for phrase in found["phrases"]:
            text = found["caption"][phrase["start"] : phrase["end"]]
            thing = found["objects"][phrase["object"]]
            assert text == phrase["text"]
            assert text.split()[1:] == [thing["colour"], thing["shape"]]


def test_a_caption_names_all_things_in_the_order_of_their_places() -> None:
    for index in range(100):
        made = example("train", 2, index)
        things = made.scene.things
        text, phrases = caption(made.scene)
        order = [phrase.thing for phrase in phrases]
        if len(things) != 2:
            assert order == list(np.argsort([thing.x for thing in things]))
        elif " left of " in text:
            assert things[order[0]].x < things[order[1]].x
        else:
            assert " above " in text and things[order[0]].y < things[order[1]].y


def test_naming_names_what_its_name_tells_apart_in_any_order() -> None:
    """Else the place of a phrase in the caption would give away the place of its thing."""
    rng = random.Random(0)
    first: Counter[int] = Counter()
    for index in range(400):
        scene = example("train", 3, index).scene
        counts = Counter(thing.pair for thing in scene.things)
        text, phrases = naming(scene, rng)
        if 1 not in counts.values():
            assert text == caption(scene)[0]
            continue
        assert len({phrase.thing for phrase in phrases}) == len(phrases)
        assert all(counts[scene.things[phrase.thing].pair] == 1 for phrase in phrases)
        if len(counts) == len(scene.things) == 3:
            first[phrases[0].thing] += 1
    assert set(first) == {0, 1, 2} and min(first.values()) > sum(first.values()) / 5


def test_layouts_name_each_thing_in_its_cell() -> None:
    seen = dict.fromkeys(LAYOUT_REQUESTS, 0)
    for index in range(200):
        found, _ = row("train", 4, index)
        asked, said = (turn["value"] for turn in found["conversations"][:2])
        for what, request in LAYOUT_REQUESTS.items():
            if request not in asked:
                continue
            seen[what] += 1
            cells = said.rstrip(".").split(", ")
            assert len(cells) == 16
            for thing in found["objects"]:
                ys, xs = np.nonzero(decode(thing["segmentation"]))
                said_of = f"{thing['colour']} {thing['shape']}" if what == "pair" else thing[what]
                assert cells[int(ys.mean() // 24) * 4 + int(xs.mean() // 24)] == said_of
            assert 16 - cells.count("empty") == len(found["objects"])
    assert min(seen.values()) > 15


def test_a_crowd_read_for_one_of_shape_and_colour_has_no_name_for_the_other() -> None:
    rng = random.Random(0)
    for _ in range(60):
        for thing in crowd(rng, "shape").things:
            held_out = [c for c, s in HELD_OUT_PAIRS if s == thing.shape]
            assert not thing.colour and thing.shape in SHAPES
            assert all(math.dist(thing.rgb, COLOURS[colour]) > 60 for colour in held_out)
        for thing in crowd(rng, "colour").things:
            assert thing.colour in COLOURS and not thing.shape and len(thing.outline) >= 5
        things = crowd(rng, "pair").things
        assert 6 <= len(things) <= 16 and not {t.pair for t in things} & HELD_OUT_PAIRS


def test_files_are_rows_and_pictures(tmp_path: Path) -> None:
    path = write(tmp_path / "scenes", "train", 30, 0)
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert [r["id"] for r in rows] == [f"train_{i:06d}" for i in range(30)]
    asked = [r["conversations"][0]["value"] for r in rows]
    assert all(text.count("<image>") == 1 for text in asked)
    assert any(CAPTION_REQUEST in text for text in asked)
    assert any(NAMING_REQUEST in text for text in asked)
    for number, found in enumerate(rows):
        with Image.open(tmp_path / "scenes" / "images" / found["image"]) as picture:
            assert picture.mode == "RGB" and picture.size == (found["width"], found["height"])
            again = row("train", 0, number)
            assert picture.tobytes() == draw(again[1]).tobytes()
            assert found == again[0]


def test_run_lengths_begin_with_what_is_outside() -> None:
    whole = np.array([[True, False], [True, True]])
    assert run_lengths(whole) == {"size": [2, 2], "counts": [0, 2, 1, 1]}
    assert run_lengths(np.zeros((2, 3), bool)) == {"size": [2, 3], "counts": [6]}


def test_an_unknown_split_is_named() -> None:
    with pytest.raises(ConfigError, match="no split 'pair'"):
        example("pair", 0, 0)
