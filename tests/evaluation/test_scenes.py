"""Scoring on drawn scenes: an oracle has every answer, a parrot has the majority's, none sees."""

from __future__ import annotations

from PIL.Image import Image

from inlay.data.scenes.build import TEST_SPLITS, example
from inlay.data.scenes.draw import draw
from inlay.data.scenes.language import CAPTION_REQUEST, caption
from inlay.evaluation.ask import Reply, ask
from inlay.evaluation.scenes import SceneTask

COUNT = 30


def oracle(split: str, seed: int) -> dict[tuple[bytes, str], str]:
    """The answer to every question, by the pixels that it is about."""
    found = {}
    for index in range(COUNT):
        made = example(split, seed, index)
        pixels = draw(made.scene).tobytes()
        found[pixels, CAPTION_REQUEST] = caption(made.scene)[0]
        found |= {(pixels, q.text): q.answer for q in made.questions}
    return found


def test_who_knows_the_picture_is_right_and_who_sees_another_is_lost() -> None:
    for split in TEST_SPLITS:
        known = oracle(split, 2)

        def answer(pictures: list[Image], text: str, tokens: int) -> str:
            (picture,) = pictures
            return known.get((picture.tobytes(), text), "?").upper() + " "  # noqa: B023

        for swapped in (False, True):
            task = SceneTask(split, COUNT, seed=2, swapped=swapped)
            replies = ask(task.questions, answer, task.max_new_tokens)
            result = task.score(replies)
            if not swapped:
                assert result.scores["accuracy"] == 1
                assert set(result.scores["kinds"]) >= {"caption", "count", "relation"}
            else:
                assert result.scores["accuracy"] < 0.5
            shares = [row["score"] for row in result.rows]
            assert sum(shares) / len(shares) == result.scores["accuracy"]


def test_the_majority_is_what_always_saying_it_scores() -> None:
    task = SceneTask("seen", COUNT, seed=4, captions=False)
    by_kind: dict[str, dict[str, int]] = {}
    for index in range(2000):
        for question in example("train", 0, index).questions:
            counts = by_kind.setdefault(question.kind, {})
            counts[question.answer] = counts.get(question.answer, 0) + 1
    said = {kind: max(counts, key=lambda a: counts[a]) for kind, counts in by_kind.items()}
    replies = {q.key: Reply(said[q.key.split()[-1]]) for q in task.questions}
    scores = task.score(replies).scores
    assert scores["majority"] == scores["accuracy"]
    assert 0.2 < scores["majority"] < 0.6
