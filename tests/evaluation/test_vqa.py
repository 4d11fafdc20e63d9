"""Questions from local JSON: forms of rows, scores, and what is said of malformed ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from evaluation.tables import COLOURS, colour_of
from PIL import Image

from inlay.core.errors import DataError
from inlay.evaluation.ask import ask
from inlay.evaluation.vqa import load


def write(folder: Path, rows: Any, name: str = "rows.json") -> Path:
    for colour, rgb in COLOURS.items():
        Image.new("RGB", (24, 16), rgb).save(folder / f"{colour}.png")
    path = folder / name
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        path.write_text(json.dumps(rows))
    return path


def sees(images: list[Image.Image], text: str, max_new_tokens: int) -> str:
    """Name the colours of the pictures, or the letter of their option."""
    said = " and ".join(colour_of(image) for image in images) or "no picture"
    letters = [line[0] for line in text.splitlines() if line.endswith(f". {said}")]
    return f"({letters[0]})" if letters else f"The {said.title()}."


@pytest.mark.parametrize("name", ["rows.json", "rows.jsonl"])
def test_every_form_of_a_row(tmp_path: Path, name: str) -> None:
    ten = [{"answer": "red"}] * 2 + [{"answer": f"no {i}"} for i in range(8)]
    rows = [
        {"image": "red.png", "question": "Colour?", "answer": "red", "category": "one"},
        {"image": "red.png", "question": "Colour?", "answers": ["blue", "green"], "category": 2},
        {"image": "red.png", "question": "Colour?", "answers": ten, "category": "one"},
        {"images": ["red.png", "blue.png"], "question": "Colours?", "answer": "red and blue"},
        {"question": "Is there one?", "answer": "no picture"},
        {"image": "blue.png", "question": "Which?", "options": ["red", "blue"], "answer": "B"},
        {"image": "blue.png", "question": "Which?", "options": ["red", "blue"], "answer": "blue"},
        {
            "image": "blue.png",
            "question": "Which?",
            "options": {"A": "red", "C": "blue"},
            "answer": "A",
        },
    ]
    task = load(write(tmp_path, rows, name))
    result = task.score(ask(task.questions, sees, 10))
    assert [row["score"] for row in result.rows] == [1, 0, pytest.approx(0.6), 1, 1, 1, 1, 0]
    assert result.scores["accuracy"] == pytest.approx(5.6 / 8)
    assert result.scores["category"] == {"2": 0.0, "one": pytest.approx(0.8)}
    assert (result.scores["num_questions"], result.scores["num_choices"]) == (8, 3)
    assert task.questions[0].text == "Colour?", "as it stands"
    assert task.questions[5].text.startswith("Which?\nA. red\nB. blue\nAnswer with")


def test_pictures_come_from_their_folder_and_nowhere_else(tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    path = write(folder, [{"image": "red.png", "question": "?", "answer": "red"}] * 2)
    rows = json.loads(path.read_text())
    rows[1]["image"] = "../secret.png"
    Image.new("RGB", (24, 16), COLOURS["red"]).save(tmp_path / "secret.png")
    path = write(tmp_path, rows)
    (folder / "rows.json").unlink()
    task = load(path, folder)
    result = task.score(ask(task.questions, sees, 10))
    assert [row["score"] for row in result.rows] == [1, 0]
    ((place, why),) = result.scores["not_asked"].items()
    assert "rows.json" in place and "leads out of the image folder" in why


def test_a_limit(tmp_path: Path) -> None:
    rows = [{"question": str(i), "answer": "x"} for i in range(5)]
    assert [q.text for q in load(write(tmp_path, rows), limit=2).questions] == ["0", "1"]


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("text", "expected an object with question and answer, found 'text'"),
        ({"answer": "x"}, "expected a text as 'question', found None"),
        ({"question": "?"}, r"expected 'answer' \(a text\) or 'answers' \(texts\), found None"),
        ({"question": "?", "answers": []}, "expected 'answer'"),
        ({"question": "?", "answer": "x", "image": 7}, "a picture must be a path"),
        ({"question": "?", "answer": "x", "options": ["x"]}, "expected 'options' as a list"),
        ({"question": "?", "answer": "z", "options": ["x", "y"]}, "'z' is none of the options"),
        ({"question": "?", "answer": "x", "options": {"a": "x", "b": "y"}}, "capital letters"),
        ({"question": "?", "answers": ["x", "y"], "options": ["x", "y"]}, "expected one answer"),
        ({"question": "? \ud83d", "answer": "x"}, "half a surrogate pair"),
    ],
)
def test_malformed_rows(tmp_path: Path, row: Any, words: str) -> None:
    rows = [{"question": "?", "answer": "x"}, row]
    with pytest.raises(DataError, match=f"rows.jsonl, line 2: .*{words}"):
        load(write(tmp_path, rows, "rows.jsonl"))


def test_malformed_files(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"question": "?", "answer": "x"}\n{"question"\n')
    with pytest.raises(DataError, match=r"a.jsonl, line 2: malformed JSON at column"):
        load(tmp_path / "a.jsonl")
    with pytest.raises(DataError, match="no such file"):
        load(tmp_path / "b.json")
    with pytest.raises(DataError, match="there are no questions"):
        load(write(tmp_path, []))
