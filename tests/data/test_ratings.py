from __future__ import annotations

import copy

import pytest

from inlay.core.errors import ConfigError, DataError
from inlay.data.ratings import rating_filter

ROW = {
    "images": ["a.png"],
    "texts": [{"user": f"Q{i}", "assistant": f"A{i}"} for i in range(4)],
    "relevance_ratings": [5, 2, None, 3],
    "formatting_ratings": [1, 5, 5],
    "visual_dependency_ratings": None,
}


def questions(row):
    return [turn["user"] for turn in row["texts"]]


@pytest.mark.parametrize(
    ("least", "left"),
    [
        (None, ["Q0", "Q1", "Q2", "Q3"]),
        ({"relevance": 1}, ["Q0", "Q1", "Q2", "Q3"]),
        ({"relevance": 3}, ["Q0", "Q2", "Q3"]),  # null passes
        ({"relevance": 3, "formatting": 2}, ["Q2", "Q3"]),  # so does a rating that is not there
        ({"visual_dependency": 5, "image_correspondence": 5}, ["Q0", "Q1", "Q2", "Q3"]),
    ],
)
def test_turns_below_the_least_rating_go(least, left):
    before = copy.deepcopy(ROW)
    kept = rating_filter(least)(ROW)
    assert questions(kept) == left
    assert kept["images"] == ["a.png"]
    assert before == ROW, "rows must not be changed"
    again = rating_filter(least)(kept)
    assert questions(again) == left, "the ratings must stay beside their turns"


def test_a_row_without_turns_is_dropped_and_others_pass():
    assert rating_filter({"relevance": 6})({**ROW, "relevance_ratings": [1, 1, 1, 1]}) is None
    plain = {"text": "T", "relevance_ratings": [0]}
    assert rating_filter({"relevance": 3})(plain) is plain


def test_mistakes():
    with pytest.raises(ConfigError, match="Did you mean 'relevance'"):
        rating_filter({"relevnce": 3})
    with pytest.raises(ConfigError, match="must be a number"):
        rating_filter({"relevance": "3"})
    with pytest.raises(DataError, match="turn 0: the relevance rating"):
        rating_filter({"relevance": 3})({**ROW, "relevance_ratings": ["good"]})
