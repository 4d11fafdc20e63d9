"""MMBench: what is asked, circular and plain accuracy, test sets, broken pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from evaluation.tables import COLOURS, colour_of, rotations, write_table
from PIL import Image

from inlay.core.errors import DataError
from inlay.evaluation.ask import Reply, ask
from inlay.evaluation.mmbench import load


def sees(images: list[Image.Image], text: str, max_new_tokens: int) -> str:
    """Name the right letter, whatever the order."""
    (image,) = images
    colour = colour_of(image)
    return next(line[0] for line in text.splitlines() if line.endswith(f". {colour}"))


def always_b(images: list[Image.Image], text: str, max_new_tokens: int) -> str:
    return "B. It looks so"


def test_the_prompt_is_the_originals(tmp_path: Path) -> None:
    rows = rotations(7, "blue", hint="It is drawn.") + rotations(8, "red")
    rows += rotations(9, "red", question="这是什么颜色?")
    task = load(write_table(tmp_path / "t.tsv", rows))
    options = "A. red\nB. blue\nC. green\nD. white\n"
    end = "Answer with the option's letter from the given choices directly."
    assert task.questions[0].text == f"It is drawn.\nWhat colour is it?\n{options}{end}"
    assert task.questions[4].text == f"What colour is it?\n{options}{end}"
    assert task.questions[8].text == f"这是什么颜色?\n{options}请直接回答选项字母。"
    assert task.max_new_tokens == 100


def test_who_sees_is_right_and_who_guesses_is_not(tmp_path: Path) -> None:
    rows = [r for i, colour in enumerate(COLOURS) for r in rotations(i, colour)]
    task = load(write_table(tmp_path / "t.tsv", rows))
    scores = task.score(ask(task.questions, sees, 100)).scores
    assert scores["Average"] == scores["CP"] == 1.0
    scores = task.score(ask(task.questions, always_b, 100)).scores
    assert scores["circular"]["overall"] == 0.0
    assert scores["plain"]["overall"] == 0.25, "in the first order blue is B"


def test_accuracy_is_that_of_an_independent_count(tmp_path: Path) -> None:
    rows = []
    kinds = [("a", "coarse_perception"), ("b", "coarse_perception"), ("c", "logic_reasoning")]
    for index in range(30):
        colour = list(COLOURS)[index % 4]
        category, ability = kinds[index % 3]
        rows += rotations(index, colour, category=category, **{"l2-category": ability})
    task = load(write_table(tmp_path / "t.tsv", rows))
    wrong = {str(i) for i in range(0, 30, 7)} | {str(i + 2_000_000) for i in range(0, 30, 4)}
    replies = {q.key: Reply("none of these" if q.key in wrong else "") for q in task.questions}
    for row in rows:
        key = str(row["index"])
        replies[key] = Reply("none of these" if key in wrong else row["answer"])
    scores = task.score(replies).scores

    frame = pd.DataFrame(rows)
    frame["hit"] = [str(i) not in wrong for i in frame["index"]]
    frame["of"] = frame["index"] % 1_000_000
    groups = frame.groupby("of").agg({"hit": "all", "category": "first", "l2-category": "first"})
    first = frame[frame["index"] < 1_000_000]
    for name, counted in {"circular": groups, "plain": first}.items():
        assert scores[name]["overall"] == pytest.approx(counted["hit"].mean())
        by = counted.groupby("category")["hit"].mean().to_dict()
        assert scores[name]["category"] == pytest.approx(by)
        by = counted.groupby("l2-category")["hit"].mean()
        abilities = {"CP": by["coarse_perception"], "LR": by["logic_reasoning"]}
        assert scores[name]["l2-category"] == pytest.approx(abilities)
    assert scores["circular"]["overall"] < scores["plain"]["overall"] < 1
    assert scores["LR"] == scores["circular"]["l2-category"]["LR"]
    assert (scores["num_questions"], scores["num_rows"], scores["not_asked"]) == (30, 120, {})


def test_a_test_set_has_rows_only(tmp_path: Path) -> None:
    rows = rotations(7, "blue")
    for row in rows:
        del row["answer"]
    task = load(write_table(tmp_path / "t.tsv", rows))
    result = task.score(ask(task.questions, sees, 100))
    assert result.tables == {} and "Average" not in result.scores
    assert [row["prediction"] for row in result.rows] == ["B", "A", "D", "C"]
    columns = "question A B C D prediction category l2-category index split answer".split()  # noqa: SIM905
    assert list(result.rows[0]) == columns


def test_a_broken_picture_is_named_and_counts_as_wrong(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = rotations(7, "blue") + rotations(8, "red")
    rows[2]["image"] = "iVBORw0KGgoAAAANSUhEUg=="  # the start of a PNG
    task = load(write_table(tmp_path / "t.tsv", rows))
    scores = task.score(ask(task.questions, sees, 100)).scores
    assert list(scores["not_asked"]) == ["2000007"]
    assert "t.tsv, line 4" in scores["not_asked"]["2000007"]
    assert (scores["Average"], scores["plain"]["overall"]) == (0.5, 1.0)


def test_a_limit_takes_questions_with_all_their_copies(tmp_path: Path) -> None:
    rows = rotations(7, "blue") + rotations(8, "red") + rotations(9, "red")
    rows.sort(key=lambda row: row["index"])  # all first orders first
    task = load(write_table(tmp_path / "t.tsv", rows), limit=2)
    assert {int(q.key) % 1_000_000 for q in task.questions} == {7, 8}
    assert len(task.questions) == 8


def test_a_copy_without_its_question(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"line 2: index 1000007 is a copy of question 7, which"):
        load(write_table(tmp_path / "t.tsv", rotations(7, "blue")[1:]))
