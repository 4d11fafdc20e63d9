"""``inlay eval`` of tasks that point: one command, several processes, runs that are broken off."""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from evaluation.pointers import COLOURS, Eye, blocks, write_refcoco
from PIL import Image
from rich.console import Console
from runs import inlay, start_ranks

from inlay.app.evaluate.pointing import Pointing
from inlay.app.evaluate.run import load_task, plan_tasks
from inlay.app.pages.masks import pick
from inlay.core.errors import ModelError

EVIL = "<script>red</script>"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    refs = [
        {"image_id": n % 2, "ann_id": 10 * (n % 2), "sentences": [text], "split": "val"}
        for n, text in enumerate(["red", "the red block", EVIL, "bad red", "red as well", "a cup"])
    ]
    return write_refcoco(tmp_path / "refcoco", refs)


def with_eye(log: Path, killed_at: int = -1) -> Callable[[], None]:
    """For ``before``: the command opens an :class:`Eye` that writes down what it is asked."""

    def patch() -> None:
        rank, asked = os.environ.get("RANK", "0"), []

        class Logged(Eye):
            def segment(
                self, image: Image.Image, pieces: Any, is_text: bool = False, prompt: Any = None
            ) -> Any:
                asked.append(pieces)
                if len(asked) == killed_at:
                    os._exit(9)
                with log.open("a") as file:
                    file.write(f"{rank} {len(pieces)}\n")
                return super().segment(image, pieces)

        def open_grounder(*paths: str | None, device: str | None, dtype: str) -> Eye:
            with log.open("a") as file:
                file.write(f"opened {paths} {dtype}\n")
            return Logged(wrong="bad")

        sys.modules["inlay.app.grounder"] = SimpleNamespace(open_grounder=open_grounder)  # type: ignore[assignment]

    return patch


def words(folder: Path, tmp_path: Path, *more: str | Path) -> list[str | Path]:
    given = ["eval", "refcoco", "--model", "m", "--ground", "c.pth", "--data", folder]
    return [*given, "--work-dir", tmp_path / "work", "--json", *more]


def test_the_command(folder: Path, tmp_path: Path) -> None:
    page, out, log = tmp_path / "page.html", tmp_path / "out.json", tmp_path / "log"
    given = words(folder, tmp_path, "--page", page, "--out", out, "--protocol", "standard")
    code, text = inlay(given, tmp_path, with_eye(log))
    assert code == 0, text
    assert all(word in text for word in ("refcoco,", "mIoU", "standard", "66.7"))
    scores = json.loads(text.splitlines()[-1])["refcoco"]
    assert scores.keys() == {"standard", "num_expressions", "not_run", "left_out"}
    assert scores["standard"]["val"]["P@0.9"] == pytest.approx(4 / 6)
    assert log.read_text().startswith("opened ('m', 'c.pth', None) auto")
    rows = json.loads(out.read_text())["rows"]["refcoco"]
    assert [row["phrase"] for row in rows if row["iou"] == 0] == ["a cup"]
    seen = Page(page.read_text(encoding="utf-8"))
    assert "script" not in seen.tags and EVIL in seen.text
    assert seen.tags.count("img") == 2 * 6 and "refcoco: worst" in seen.text
    assert "standard val 1 2.0, IoU 0.000" in " ".join(seen.text.split())

    code, text = inlay(given, tmp_path, with_eye(log))
    assert code == 0 and log.read_text().count("\n") == 2 + 6, "nothing is asked again"
    assert json.loads(text.splitlines()[-1])["refcoco"] == scores


class Page(HTMLParser):
    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.text += data


def test_processes_share_the_work_and_another_number_goes_on(folder: Path, tmp_path: Path) -> None:
    given, log = words(folder, tmp_path), tmp_path / "log"
    code, text = inlay(given, tmp_path, with_eye(log, killed_at=4))
    assert code == 9, text
    assert log.read_text().count("\n") == 1 + 3
    children = start_ranks(given, tmp_path, 2, [with_eye(log)] * 2)
    assert [child.wait() for child in children] == [0, 0], children[0].text + children[1].text
    asked = [line.split()[0] for line in log.read_text().splitlines() if "opened" not in line]
    assert len(asked) == 2 + 6 and set(asked) == {"0", "1"}, "two captions and six, once each"
    scores = json.loads(children[0].text.splitlines()[-1])["refcoco"]
    assert scores["num_expressions"] == {"original": {"val": 6}, "standard": {"val": 6}}
    assert "refcoco" not in children[1].text, "the second process only helps"


def test_mistakes_cost_no_model(folder: Path, tmp_path: Path) -> None:
    none = tmp_path / "never opened"
    for more, message in (
        (["--bits", "4"], "--bits has no effect on tasks that point"),
        (["--cot", "v1"], "--cot goes with the task viscot"),
        (["--split", "tset"], "has no split 'tset', only val"),
        (["--protocol", "orginal"], "Did you mean 'original'?"),
    ):
        code, text = inlay(words(folder, tmp_path, *more), tmp_path, with_eye(none))
        assert code == 1 and message in text.replace("\n", " "), text
    given = ["eval", "vqa", folder / "refs.json", "--model", "m", "--ground", "c.pth"]
    code, text = inlay(given, tmp_path)
    assert code == 1 and "--ground goes with phrases, png, refcoco, viscot" in text
    assert not none.exists()
    assert plan_tasks(["refcoco", str(folder)], []) == {"refcoco": str(folder)}


def test_another_model_or_other_data_start_anew(folder: Path, tmp_path: Path) -> None:
    console = Console(file=io.StringIO())

    def asked(state: str, **options: Any) -> int:
        eye = Eye()
        task = load_task("refcoco", str(folder), None, None, **options)
        Pointing(eye, state, tmp_path / "work").run("refcoco", task, console)
        return len(eye.captions)

    assert asked("a") == 8 and asked("a") == 0
    assert asked("b") == 8
    assert asked("a", protocols=["standard"]) == 0, "a part of what is there"
    refs = json.loads((folder / "refs.json").read_text())
    (folder / "refs.json").write_text(json.dumps(refs[:-1]))
    assert asked("a") == 7


def test_visual_chain_of_thought(tmp_path: Path) -> None:
    blocks().save(tmp_path / "a.png")
    row = {
        "question_id": 1,
        "image": ["a.png", "a.png###[20, 5, 34, 25]"],
        "conversations": [{"value": "<image>\nWhat is green?"}, {"value": "block"}],
    }
    (tmp_path / "cub.json").write_text(json.dumps([row]))
    task = load_task("viscot", str(tmp_path / "cub.json"), None, None, version="v2")
    out = io.StringIO()
    pointing = Pointing(Eye(), None, tmp_path / "work", tmp_path / "page.html")
    result = pointing.run("viscot", task, Console(file=out))
    assert result is not None and result.scores["exact"] == 0
    assert "viscot, by data set, %" in out.getvalue()
    (judged,) = (tmp_path / "work").glob("viscot_*/judge/cub.json")
    assert json.loads(judged.read_text())[0]["answer"] == "yes"
    seen = Page((tmp_path / "page.html").read_text(encoding="utf-8"))
    assert "What is green? Said: yes. Right: block." in seen.text and "img" in seen.tags


def test_captions_that_could_not_be_run_are_named(folder: Path, tmp_path: Path) -> None:
    class Short(Eye):
        def segment(
            self, image: Image.Image, pieces: Any, *_: Any
        ) -> tuple[np.ndarray, np.ndarray]:
            if len(pieces) > 2:
                raise ModelError("longer than the context")
            return super().segment(image, pieces)

    out = io.StringIO()
    task = load_task("refcoco", str(folder), None, None)
    Pointing(Short(), None, tmp_path / "w", tmp_path / "p.html").run(
        "refcoco", task, Console(file=out)
    )
    assert "2 of 8 questions could not be asked and count as wrong:" in out.getvalue()
    assert "longer than the context" in (tmp_path / "p.html").read_text()


def test_best_median_and_worst() -> None:
    means = {str(n): n / 100 for n in range(101)}
    picked = pick(means, 3)
    assert picked["best"] == ["100", "99", "98"] and picked["worst"] == ["0", "1", "2"]
    assert sorted(picked["median"]) == ["49", "50", "51"]
    for count in range(1, 9):
        few = pick({c: i for i, c in enumerate("abcdefgh"[:count])})
        keys = [key for keys in few.values() for key in keys]
        assert len(set(keys)) == len(keys) and len(keys) >= min(count, 3)
    assert pick({"a": 1.0}) == {"best": ["a"]} and len(COLOURS) == 3
