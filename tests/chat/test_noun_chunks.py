"""Noun phrases by rules, on sentences of answers and on real captions."""

from __future__ import annotations

import json
import sys
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest

from inlay.chat import noun_chunks as module
from inlay.chat.noun_chunks import noun_chunks, rule_chunks


@pytest.fixture(autouse=True)
def rules(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rules are tested, whatever is installed."""
    monkeypatch.setattr(module, "_spacy_model", lambda: None)


def found(text: str) -> list[str]:
    spans = noun_chunks(text)
    assert all(a < b for a, b in spans)
    assert all(end <= start for (_, end), (start, _) in pairwise(spans))
    return [text[start:end] for start, end in spans]


@pytest.mark.parametrize(
    ("text", "phrases"),
    [
        ("a red circle left of a blue square.", ["a red circle", "a blue square"]),
        (
            "two dogs and a man in a black shirt are playing frisbee on the grass",
            ["two dogs", "a man", "a black shirt", "frisbee", "the grass"],
        ),
        (
            "The image shows an orange and a black and white cat on the left side of the very old "
            "wooden table.",
            ["an orange", "a black and white cat", "the very old wooden table"],
        ),
        (
            "Yes, the man's hand is holding 2 large, red apples next to another one.",
            ["the man's hand", "2 large, red apples"],
        ),
        ("The sky is cloudy. It is blue.", ["The sky"]),
        ("The object most relevant is the red one.", ["The object", "the red one"]),
        ("children ride while others run", ["children"]),
        ("A man rides a bike on a ride.", ["A man", "a bike", "a ride"]),
        ("A traffic light, a counter top", ["A traffic light", "a counter top"]),
        ("a plate with shredded chicken", ["a plate", "shredded chicken"]),
        ("a standing toilet; a parking meter", ["a standing toilet", "a parking meter"]),
        (
            "There are three people in the picture: a man wearing glasses, and an old lady holding "
            "a bag full of groceries.",
            ["three people", "a man", "glasses", "an old lady", "a bag", "groceries"],
        ),
        ("A RED TRUCK THAT IS ON THE STREET", ["A RED TRUCK", "THE STREET"]),
        ("two buses pass while a crowded train passes", ["two buses", "a crowded train"]),
        ("the woman in the back, on the left", ["the woman"]),
        ("Café crème, naïve façades", ["Café crème", "naïve façades"]),
        ("That dog is the one that I saw", ["That dog"]),
        ("this image", []),
        ("", []),
        ("?! ...", []),
    ],
)
def test_phrases_of_a_sentence(text: str, phrases: list[str]) -> None:
    assert found(text) == phrases


def test_drawn_scenes_are_cut_at_their_own_phrases() -> None:
    from inlay.data.scenes.build import example
    from inlay.data.scenes.language import caption

    for index in range(60):
        text, phrases = caption(example("train", 0, index).scene)
        assert rule_chunks(text) == [(p.start, p.end) for p in phrases], text


@pytest.mark.shared
def test_real_captions(shared_data: Path) -> None:
    """Each linked word of the narratives ends a phrase; two stand inside a compound."""
    rows = json.loads((shared_data / "grounding" / "png" / "narratives.json").read_text())
    total = inside = at_end = 0
    for row in rows:
        place, chunks = 0, noun_chunks(row["caption"])
        for segment in row["segments"]:
            word = segment["utterance"].strip()
            start = row["caption"].index(word, place)
            place = start + len(word)
            if segment["segment_ids"]:
                total += 1
                inside += any(a <= start and place <= b for a, b in chunks)
                at_end += any(a <= start and place == b for a, b in chunks)
    assert (total, inside, at_end) == (92, 92, 90)
    phrases = [p for row in rows for p in found(row["caption"])]
    assert len(phrases) < 2 * total, "and there are few others"


def test_spacy_is_used_where_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    module._spacy_model.cache_clear()
    text = "It shows a big dog in this image"
    chunks = [(0, 2), (9, 18), (22, 32)]

    def pipeline(text: str) -> SimpleNamespace:
        spans = [SimpleNamespace(start_char=a, end_char=b) for a, b in chunks]
        return SimpleNamespace(noun_chunks=spans)

    util = SimpleNamespace(get_installed_models=lambda: ["de_core_news_sm", "en_core_web_md"])
    loaded: list[str] = []
    fake = SimpleNamespace(util=util, load=lambda name: loaded.append(name) or pipeline)
    monkeypatch.setitem(sys.modules, "spacy", fake)
    try:
        assert [text[a:b] for a, b in noun_chunks(text)] == ["a big dog"]
        assert loaded == ["en_core_web_md"]
        module._spacy_model.cache_clear()
        util.get_installed_models = lambda: []
        assert [text[a:b] for a, b in noun_chunks(text)] == ["a big dog"]
    finally:
        module._spacy_model.cache_clear()
