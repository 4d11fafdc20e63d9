"""Evaluation from a folder: real tiny models, runs that are broken off, files that are written."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch
from evaluation.tables import COLOURS, colour_of, rotations, write_table
from PIL import Image
from rich.console import Console
from runs import inlay
from tiny_vlms import llama, qwen_vl

from inlay.app.evaluate.answering import Answerer
from inlay.app.evaluate.run import load_task, mmbench, plan_tasks
from inlay.chat.open import open_model
from inlay.core.errors import ConfigError, DataError, ModelError
from inlay.evaluation.ask import Result

EVIL = "<script>alert('x')</script>"


@pytest.fixture(scope="module")
def vlm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return qwen_vl(tmp_path_factory.mktemp("qwen_vl"))


@pytest.fixture(scope="module")
def lm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return llama(tmp_path_factory.mktemp("llama"))


@pytest.fixture
def table(tmp_path: Path) -> Path:
    rows = [row for i, colour in enumerate(COLOURS) for row in rotations(i, colour)]
    return write_table(tmp_path / "small.tsv", rows)


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    rows: list[dict[str, Any]] = []
    for name, rgb in COLOURS.items():
        Image.new("RGB", (60, 40), rgb).save(tmp_path / f"{name}.png")
        rows.append({"image": f"{name}.png", "question": f"Which? {EVIL}", "answer": name})
    path = tmp_path / "questions.json"
    path.write_text(json.dumps([*rows, {"image": "gone.png", "question": "?", "answer": "no"}]))
    return path


def test_each_question_stands_alone_and_is_answered_greedily(vlm: Path) -> None:
    answer = Answerer(open_model(str(vlm)))
    red, blue = (Image.new("RGB", (60, 40), COLOURS[c]) for c in ("red", "blue"))
    first = answer([red], "Which colour?", 8)
    assert answer([blue], "Which colour?", 8) != first, "it looks at the picture"
    assert answer([], "Another question", 3) is not None
    assert answer([red], "Which colour?", 8) == first, "nothing is remembered"
    assert first.startswith(answer([red], "Which colour?", 2))


def by_hand(vlm: Path, image: Image.Image, question: str, said: str) -> float:
    """Negative log-likelihood of an answer and its end by transformers alone."""
    from transformers import (
        AutoModelForImageTextToText,
        AutoTokenizer,
        Qwen2VLImageProcessorPil,
    )

    tokenizer = AutoTokenizer.from_pretrained(vlm)
    model = AutoModelForImageTextToText.from_pretrained(vlm).eval()
    pixels = Qwen2VLImageProcessorPil.from_pretrained(vlm)(images=[image], return_tensors="pt")
    patches = int(pixels["image_grid_thw"].prod()) // 4
    turn = "<|vision_start|>" + "<|image_pad|>" * patches + "<|vision_end|>" + question
    prompt = f"<|im_start|>user\n{turn}<|im_end|>\n<|im_start|>assistant\n"
    start = tokenizer(prompt, return_tensors="pt").input_ids
    ids = tokenizer(f"{prompt}{said}<|im_end|>", return_tensors="pt").input_ids
    with torch.no_grad():
        kinds = (ids == tokenizer.convert_tokens_to_ids("<|image_pad|>")).long()
        logits = model(input_ids=ids, mm_token_type_ids=kinds, **pixels).logits[0].double()
    losses = -logits.log_softmax(-1)[:-1].gather(1, ids[0, 1:, None])[:, 0]
    return float(losses[start.shape[1] - 1 :].sum())


def test_the_likelihood_is_that_of_transformers(vlm: Path) -> None:
    answer = Answerer(open_model(str(vlm)))
    image = Image.effect_noise((90, 60), 80).convert("RGB")
    for said in ("red", "a long blue answer"):
        loss, greedy = answer.score([image], "Which colour?", f" {said}")
        assert loss == pytest.approx(by_hand(vlm, image, "Which colour?", said), rel=1e-4)
        assert not greedy


def test_an_answer_that_the_model_would_give(lm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = Answerer(open_model(str(lm)))
    said = answer([], "Is it?", 6)
    assert answer.score([], "Is it?", "yes")[0] > 0 and answer([], "Is it?", 6) == said
    monkeypatch.setattr(answer.session, "reply", lambda text, **_: "yes ")
    assert answer.score([], "Is it?", " yes")[1] and not answer.score([], "Is it?", " no")[1]
    with pytest.raises(ModelError, match="reads text only"):
        answer.score([Image.new("RGB", (4, 4))], "Is it?", "yes")


def run_mmbench(table: Path, answer: Callable[..., str], model: Path, **more: Any) -> Result:
    task = load_task("mmbench", str(table), None, None)
    work_dir = str(table.parent / "work")
    console = Console(quiet=True)
    models: dict[str, str | None] = {"model": str(model), "llava": None}
    result = mmbench(task, str(table), answer, models, more, work_dir, console=console)
    assert result is not None
    return result


def test_a_broken_off_run_goes_on_unless_something_changed(
    table: Path, lm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def sees(images: list[Image.Image], text: str, max_new_tokens: int) -> str:
        if len(asked) == 7:
            asked.append("killed")
            raise KeyboardInterrupt
        asked.append(text)
        colour = colour_of(images[0])
        return next(line[0] for line in text.splitlines() if line.endswith(f". {colour}"))

    with pytest.raises(KeyboardInterrupt):
        run_mmbench(table, sees, lm)
    assert run_mmbench(table, sees, lm).scores["Average"] == 1.0
    assert len(asked) == 1 + 16, "seven of them once, in the first run"
    run_mmbench(table, sees, lm)
    assert len(asked) == 1 + 16
    run_mmbench(table, sees, lm, prompt_template="vicuna")
    assert len(asked) == 1 + 2 * 16, "another template, other answers"
    os.utime(lm / "model.safetensors", (1, 1))
    run_mmbench(table, sees, lm)
    assert len(asked) == 1 + 3 * 16, "trained on under the same name"


def test_the_command_mmbench(table: Path, vlm: Path, tmp_path: Path) -> None:
    words = ["mmbench", vlm, "--data-path", table, "--work-dir", tmp_path / "w"]
    code, text = inlay([*words, "--max-new-tokens", "3", "--limit", "2"], tmp_path)
    assert code == 0, text
    assert "mmbench, by l2-category, %" in text and "overall" in text
    (folder,) = (f for f in (tmp_path / "w").glob("2*") if f.is_dir())
    scores = json.loads((folder / "mmbench_result.json").read_text())
    assert {"Average", "CP", "circular", "plain"} <= scores.keys()
    assert (scores["num_questions"], scores["num_rows"], scores["not_asked"]) == (2, 8, {})
    arguments = json.loads((folder / "args.json").read_text())
    assert arguments["model"] == str(vlm) and arguments["max_new_tokens"] == 3
    (sheet,) = folder.glob("mmbench_result.[xt]*")
    assert str(sheet) in text.replace("\n", "")
    if sheet.suffix == ".tsv":
        with sheet.open(newline="") as file:
            assert len(list(csv.DictReader(file, delimiter="\t"))) == 8


def test_the_command_eval(questions: Path, table: Path, vlm: Path, tmp_path: Path) -> None:
    out, wrong = tmp_path / "out.json", tmp_path / "wrong.html"
    words = ["eval", "vqa", "mmbench", "--data", questions, table, "--model", vlm]
    words += ["--max-new-tokens", "3", "--limit", "5", "--out", out, "--wrong", wrong]
    code, text = inlay(words, tmp_path)
    assert code == 0, text
    assert "1 of 5 questions could not be asked and count as wrong:" in text
    found = json.loads(out.read_text())
    assert found["scores"]["vqa"]["accuracy"] == 0 and len(found["rows"]["vqa"]) == 5
    assert "circular" in found["scores"]["mmbench"] and len(found["rows"]["mmbench"]) == 16

    tags: list[str] = []
    texts: list[str] = []
    parser = HTMLParser()
    parser.handle_starttag = lambda tag, attrs: tags.append(tag)  # type: ignore[method-assign]
    parser.handle_data = texts.append  # type: ignore[method-assign]
    parser.feed(wrong.read_text(encoding="utf-8"))
    assert "script" not in tags and "".join(texts).count(EVIL) == 4
    assert tags.count("img") >= 4 and "gone.png" in "".join(texts)


def test_a_model_without_eyes(questions: Path, lm: Path, tmp_path: Path) -> None:
    code, text = inlay(["eval", "vqa", questions, "--model", lm], tmp_path)
    assert code == 1
    assert "none of 5 items could be run. The first: this model reads text only" in text


def test_mistakes_cost_no_model(questions: Path, tmp_path: Path) -> None:
    code, text = inlay(["eval", "vqaa", questions, "--model", "none"], tmp_path)
    assert code == 1 and "there is no task 'vqaa'. Did you mean 'vqa'?" in text
    code, text = inlay(["mmbench", "none", "--data-path", questions], tmp_path)
    assert code == 1 and "line 1: expected tab-separated columns index, image" in text
    code, text = inlay(["eval", "vqa", questions, "--model", "x", "--limit", "0"], tmp_path)
    assert code == 1 and "--limit must be 1 or more, got 0" in text


def test_tasks_and_their_data(questions: Path, table: Path) -> None:
    a, b = str(questions), str(table)
    both = {"vqa": a, "mmbench": b}
    assert plan_tasks(["vqa", "mmbench"], [a, b]) == both
    assert plan_tasks(["vqa", a, "mmbench", b], []) == both
    assert plan_tasks(["vqa", "lmms:mmstar"], [a]) == {"vqa": a, "lmms:mmstar": None}
    for words, data in ((["vqa"], []), (["vqa"], [a, b]), (["lmms:mmstar"], [a])):
        with pytest.raises(ConfigError, match="one for each of"):
            plan_tasks(words, data)
    with pytest.raises(ConfigError, match="name each task once"):
        plan_tasks(["vqa", "vqa"], [a, b])
    with pytest.raises(ConfigError, match="there is no task 'lmms:'"):
        plan_tasks(["lmms:"], [])
    with pytest.raises(DataError, match="no such file"):
        load_task("vqa", "none.json", None, None)
