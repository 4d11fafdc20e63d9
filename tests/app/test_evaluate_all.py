"""``inlay eval`` of tasks of every sort: one table, one JSON, broken off, and shared."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from evaluation.lm_tasks import write_tasks
from evaluation.tables import COLOURS
from PIL import Image
from rich.console import Console
from runs import inlay, start_ranks
from tiny_vlms import clip, llama, qwen_vl

from inlay.app.evaluate.answering import Answerer
from inlay.app.evaluate.harness import Harness, HarnessOptions
from inlay.app.evaluate.items import Evaluator
from inlay.app.open_model import open_model
from inlay.chat.open import Opened
from inlay.evaluation.records import Records


@pytest.fixture(scope="module")
def vlm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return qwen_vl(tmp_path_factory.mktemp("qwen_vl"))


@pytest.fixture(scope="module")
def lm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return llama(tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tasks(tmp_path_factory.mktemp("tasks"))


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    rows: list[dict[str, Any]] = []
    for name, rgb in COLOURS.items():
        Image.new("RGB", (60, 40), rgb).save(tmp_path / f"{name}.png")
        rows.append({"image": f"{name}.png", "question": f"Is it {name}?", "answer": name})
    path = tmp_path / "questions.json"
    path.write_text(json.dumps(rows))
    return path


def words(model: Path, questions: Path, tasks: Path, work: Path) -> list[str | Path]:
    given = ["eval", "vqa", "lm:colours", "scenes", "lm:speech", "--model", model]
    given += ["--data", questions, "seen", "--limit", "3", "--max-new-tokens", "3"]
    return [*given, "--include-path", tasks, "--work-dir", work, "--out", work / "out.json"]


def killed_at(answer: int) -> Callable[[], None]:
    """For ``before``: the process dies when it would write an answer."""

    def patch() -> None:
        add, written = Records.add, []

        def dying(self: Records, key: str, row: Any) -> None:
            if len(written) == answer:
                os._exit(9)
            written.append(key)
            add(self, key, row)

        Records.add = dying  # type: ignore[method-assign]

    return patch


def kept(work: Path) -> Counter[str]:
    lines = [line for f in work.rglob("rows_*.jsonl") for line in f.read_text().splitlines()]
    return Counter(json.loads(line)["key"] for line in lines)


def test_all_tasks_broken_off_and_shared(
    vlm: Path, questions: Path, tasks: Path, tmp_path: Path
) -> None:
    whole = words(vlm, questions, tasks, tmp_path / "whole")
    code, text = inlay(whole, tmp_path)
    assert code == 0, text
    expected = json.loads((tmp_path / "whole" / "out.json").read_text())
    assert list(expected["scores"]) == ["vqa", "scenes", "lm:colours", "lm:speech"]
    assert {"vqa/accuracy", "scenes/accuracy", "lm:colours/acc"} <= expected["results"].keys()
    assert expected["results"]["lm:colours/acc"] == expected["scores"]["lm:colours"]["acc"]
    assert len(expected["rows"]["vqa"]) == 3 and expected["model"]["model"] == str(vlm)
    table = text[text.rindex("measure") :]
    assert all(name in table for name in ("vqa", "scenes", "lm:speech", "exact_match"))

    work = tmp_path / "work"
    broken = words(vlm, questions, tasks, work)
    for number in (2, 20):  # in the first task, and in a later one
        code, text = inlay(broken, tmp_path, killed_at(number))
        assert code == 9 and not (work / "out.json").exists(), text
    assert sum(kept(work).values()) == 22
    children = start_ranks(broken, tmp_path, 2)
    assert [child.wait() for child in children] == [0, 0], children[0].text + children[1].text
    assert json.loads((work / "out.json").read_text()) == expected
    assert kept(work) == kept(tmp_path / "whole"), "nothing is asked twice"
    assert len(list(work.rglob("rows_1.jsonl"))) >= 2, "both processes have worked"
    assert "measure" not in children[1].text, "the second one only helps"


def found(opened: Opened, tasks: Path, work: Path, template: Any = None, **options: Any) -> Any:
    """What the harness's tasks say of a model of ours."""
    names = ["lm:colours", "lm:prose"]
    harness = Harness(names, HarnessOptions(include_path=str(tasks), **options))
    runner = Evaluator(Answerer(opened, template), "state", work)
    return harness.use(runner).run(names, Console(quiet=True))


def theirs(tasks: Path, chat: bool = False, **model: Any) -> dict[str, float]:
    """The accuracy and perplexity that the harness finds by itself."""
    from lm_eval.evaluator import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    results = simple_evaluate(
        model=HFLM(device="cpu", dtype="float32", **model),
        tasks=["colours", "prose"],
        task_manager=TaskManager(include_path=str(tasks), include_defaults=False),
        apply_chat_template=chat,
        log_samples=False,
        bootstrap_iters=0,
    )
    assert results is not None
    values = results["results"]
    return {
        "lm:colours": values["colours"]["acc,none"],
        "lm:prose": values["prose"]["word_perplexity,none"],
    }


def same(scores: Any, expected: dict[str, float]) -> bool:
    return {
        "lm:colours": scores["lm:colours"]["acc"],
        "lm:prose": scores["lm:prose"]["word_perplexity"],
    } == expected


def test_a_language_model_and_an_adapter(lm: Path, tasks: Path, tmp_path: Path) -> None:
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(lm, dtype="float32")
    lora = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")
    adapted = get_peft_model(base, lora)
    torch.manual_seed(1)
    for weight in adapted.parameters():
        weight.data += 0.2 * torch.randn_like(weight) * weight.requires_grad
    adapted.save_pretrained(tmp_path / "adapter")
    plain = theirs(tasks, pretrained=str(lm))
    changed = theirs(tasks, pretrained=str(lm), peft=str(tmp_path / "adapter"))
    assert plain != changed
    opened = open_model(str(lm), dtype="fp32")
    assert same(found(opened, tasks, tmp_path / "a"), plain)
    opened = open_model(str(lm), dtype="fp32", adapter=str(tmp_path / "adapter"))
    assert same(found(opened, tasks, tmp_path / "b"), changed)


def test_a_named_template_is_the_chat_template(lm: Path, tasks: Path, tmp_path: Path) -> None:
    opened = open_model(str(lm), dtype="fp32")
    chat = found(opened, tasks, tmp_path / "a", "vicuna", apply_chat_template=True)
    own = found(opened, tasks, tmp_path / "b", apply_chat_template=True)
    assert same(own, theirs(tasks, chat=True, pretrained=str(lm)))
    assert chat["lm:prose"] == own["lm:prose"], "what is no question has no template"
    shared = kept(tmp_path / "a") & kept(tmp_path / "b")
    assert sum(shared.values()) == 7, "the others are asked in other words"


def test_models_with_eyes_are_asked_as_language_models(
    lm: Path, vlm: Path, tasks: Path, tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, AutoTokenizer

    from inlay.data import SquareImageProcessor
    from inlay.models import LLaVAModel, load_visual_encoder

    vision = clip(tmp_path / "clip")
    tokenizer = AutoTokenizer.from_pretrained(lm)
    llava = LLaVAModel(
        AutoModelForCausalLM.from_pretrained(lm, dtype="float32"),
        load_visual_encoder(str(vision)),
        tokenizer,
    ).eval()
    processor = SquareImageProcessor(tokenizer, str(vision))
    opened = Opened(llava, tokenizer, processor)
    assert same(found(opened, tasks, tmp_path / "llava"), theirs(tasks, pretrained=str(lm)))

    whole = AutoModelForImageTextToText.from_pretrained(vlm, dtype="float32")
    expected = theirs(
        tasks, pretrained=whole, tokenizer=AutoTokenizer.from_pretrained(vlm), backend="causal"
    )
    opened = open_model(str(vlm), dtype="fp32")
    assert same(found(opened, tasks, tmp_path / "vlm", batch_size=1), expected)


def test_mistakes_cost_no_model(questions: Path, tasks: Path, tmp_path: Path) -> None:
    for given, message in (
        (["lm:colours", "vqaa", "lmm:x"], "there is no task 'vqaa'. Did you mean 'vqa'?"),
        (["vqa", questions, "--num-fewshot", "2"], "--num-fewshot goes with tasks of lm-eval"),
        (["lm:colours", "--batch-size", "0"], "--batch-size must be 1 or more"),
        (["scenes", "--data", "seeen"], "there is no split 'seeen'. Did you mean 'seen'?"),
    ):
        code, text = inlay(["eval", *given, "--model", "none"], tmp_path)
        assert code == 1 and message in " ".join(text.split()), text
