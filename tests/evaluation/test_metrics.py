"""Metrics against values worked out by hand or by another formula."""

from __future__ import annotations

import itertools

import pytest

from inlay.evaluation.metrics import (
    chosen_option,
    circular,
    first_letters,
    mean_by,
    normalise,
    vqa_score,
)

# What the public evaluation code of VQA v2.0 makes of these answers.
OFFICIAL = {
    "Red.": "red",
    "a red car": "red car",
    "The  two\ndogs": "2 dogs",
    "none": "0",
    "Yes, it is!": "yes it is",
    "yes,no": "yes no",
    "1,000": "1000",
    "1,000 a-b": "1000 ab",
    "3.5 meters": "3.5 meters",
    "U.S.": "us",
    "dont know": "don't know",
    "its 5 oclock": "its 5 o'clock",
    "well-done": "well done",
    "left/right": "left right",
    "blue , white": "blue white",
    "(yes)": "yes",
    "": "",
    "the": "",
    "weve": "we've",
    "10 %": "10 %",
}


@pytest.mark.parametrize(("answer", "expected"), OFFICIAL.items())
def test_answers_are_normalised_as_vqa_does(answer: str, expected: str) -> None:
    assert normalise(answer) == expected


def test_soft_accuracy_is_the_mean_over_nine_of_ten_people() -> None:
    for agreeing in range(11):
        people = ["red"] * agreeing + [f"other {i}" for i in range(10 - agreeing)]
        nines = itertools.combinations(people, 9)
        by_hand = [min(nine.count("red") / 3, 1) for nine in nines]
        assert vqa_score("Red.", people) == pytest.approx(sum(by_hand) / 10), agreeing


def test_few_references_ask_for_any_match() -> None:
    assert vqa_score("The dog!", ["cat", "dog"]) == 1
    assert vqa_score("bird", ["cat", "dog"]) == 0
    assert vqa_score("dog", ["dog"] * 9) == 1, "nine are not ten"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("B", "B"),
        ("B. blue", "B"),
        ("the answer is C.", "C"),
        ("Answer: C", "A"),  # the rule's price
        ("AB", "AB"),
        ("blue", ""),
        ("", ""),
    ],
)
def test_first_letters(text: str, expected: str) -> None:
    assert first_letters(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("B", "B"),
        (" b ", "B"),
        ("(B)", "B"),
        ("B.", "B"),
        ("B. blue", "B"),
        ("(C) a green one", "C"),
        ("C\nbecause it is", "C"),
        ("Answer: C", "C"),
        ("The answer is (B).", "B"),
        ("blue", "B"),
        ("A red.", "A"),  # the whole text of an option goes first
        ("A blue ball is shown", ""),
        ("It is blue (B)", "B"),
        ("either (A) or (B)", ""),
        ("D", ""),
        ("", ""),
    ],
)
def test_chosen_option(text: str, expected: str) -> None:
    assert chosen_option(text, {"A": "red", "B": "blue", "C": "green"}) == expected


def test_circular_wants_every_order_right() -> None:
    hits = {1: True, 2: True, 3: False, 1_000_001: True, 2_000_001: True, 1_000_002: False}
    hits[1_000_003] = True
    assert circular(hits) == {1: True, 2: False, 3: False}


def test_mean_by_group() -> None:
    assert mean_by([("b", 1), ("a", 0.5), ("b", 0)]) == {"a": 0.5, "b": 0.5}
    assert list(mean_by([("b", 1), ("a", 0.5)])) == ["a", "b"]
