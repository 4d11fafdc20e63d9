"""The adapter to lm-evaluation-harness, against the harness's own model on the same folder."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import tiny_vlms
from evaluation.lm_tasks import TASKS, write_tasks

from inlay.core.errors import ConfigError
from inlay.evaluation.lm_eval import find_tasks, run_tasks
from inlay.evaluation.lm_eval_model import InlayLM
from inlay.evaluation.records import Records, read_records


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import AutoModelForCausalLM

    folder = tiny_vlms.llama(tmp_path_factory.mktemp("llama"))
    llm = AutoModelForCausalLM.from_pretrained(folder)
    for name, weight in llm.named_parameters():
        if "layers" in name:
            weight.data *= 10  # or it would say one letter again and again
    llm.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tasks(tmp_path_factory.mktemp("tasks"))


def theirs(folder: Path, tasks: Path, chat: bool = False, **options: Any) -> dict[str, Any]:
    """What the harness finds with its own model."""
    from lm_eval.evaluator import simple_evaluate
    from lm_eval.models.huggingface import HFLM

    found = simple_evaluate(
        model=HFLM(pretrained=str(folder), device="cpu", dtype="float32", **options),
        tasks=list(TASKS),
        task_manager=find_tasks(TASKS, str(tasks)),
        apply_chat_template=chat,
        bootstrap_iters=0,
    )
    assert found is not None
    return dict(found)


def ours(
    folder: Path, tasks: Path, work: Path, names: Any = TASKS, chat: bool = False, **options: Any
) -> dict[str, dict[str, Any]]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    llm = AutoModelForCausalLM.from_pretrained(folder, dtype="float32")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = InlayLM(llm, tokenizer, Records(work), **options)
    return run_tasks(names, find_tasks(names, str(tasks)), model, chat=chat)


@pytest.mark.parametrize(("chat", "batch_size"), [(False, 1), (True, 3)])
def test_numbers_are_those_of_the_harness(
    folder: Path, tasks: Path, tmp_path: Path, chat: bool, batch_size: int
) -> None:
    expected = theirs(folder, tasks, chat, batch_size=batch_size)
    found = ours(folder, tasks, tmp_path, chat=chat, batch_size=batch_size)
    measures = {
        "colours": ("acc", "acc_norm"),
        "prose": ("word_perplexity", "bits_per_byte"),
        "speech": ("exact_match",),
    }
    for task, names in measures.items():
        for name in names:
            assert found[task][name] == expected["results"][task][f"{name},none"]
    values = [row["value"] for row in read_records(tmp_path).values()]
    for sample in (s for task in TASKS for s in expected["samples"][task]):
        for (answer,) in sample["resps"]:
            value = list(answer) if isinstance(answer, tuple) else answer
            assert value in values, "every likelihood and every text"


def test_likelihoods_by_hand(folder: Path, tasks: Path, tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    ours(folder, tasks, tmp_path, ["colours"])
    kept = sorted(row["value"][0] for row in read_records(tmp_path).values())
    llm = AutoModelForCausalLM.from_pretrained(folder, dtype="float32").eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    by_hand = []
    for number in range(7):
        start = tokenizer(f"Number {number}, which colour?").input_ids
        for choice in (" red", " dark blue", " ü"):
            ids = torch.tensor([start + tokenizer(choice).input_ids])
            with torch.no_grad():
                logits = llm(ids).logits[0].double().log_softmax(-1)
            rows = range(len(start) - 1, ids.shape[1] - 1)
            by_hand.append(sum(float(logits[i, ids[0, i + 1]]) for i in rows))
    assert kept == pytest.approx(sorted(by_hand), rel=1e-5)


def test_a_run_that_is_broken_off_is_gone_on_with(
    folder: Path, tasks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = ours(folder, tasks, tmp_path / "whole")
    asked: list[str] = []
    add = Records.add

    def dying(self: Records, key: str, row: Any) -> None:
        if len(asked) == 25:  # in the third task
            asked.append("killed")
            raise KeyboardInterrupt
        asked.append(key)
        add(self, key, row)

    monkeypatch.setattr(Records, "add", dying)
    with pytest.raises(KeyboardInterrupt):
        ours(folder, tasks, tmp_path / "broken")
    assert ours(folder, tasks, tmp_path / "broken") == whole
    assert len(asked) == 1 + len(set(asked) - {"killed"}) == 1 + 7 * 3 + 7 + 7, "each once"
    assert ours(folder, tasks, tmp_path / "broken") == whole and len(asked) == 36


def test_stop_texts_and_stop_tokens(folder: Path, tmp_path: Path) -> None:
    free = write_tasks(tmp_path / "free", stop="never said")
    ours(folder, free, tmp_path / "a", ["speech"])
    said = [row["value"] for row in read_records(tmp_path / "a").values()]
    stop = next(c for c in said[0][2:] if c.isalnum())
    bounded = write_tasks(tmp_path / "bounded", stop=stop)
    ours(folder, bounded, tmp_path / "b", ["speech"])
    cut = [row["value"] for row in read_records(tmp_path / "b").values()]
    assert cut == [text.split(stop)[0] for text in said] != said

    from transformers import AutoTokenizer

    # as a stop word of the template, and as a token that ends an answer
    hit = write_tasks(tmp_path / "hit", said=said[0].split(stop)[0], stop="never said")
    ids = AutoTokenizer.from_pretrained(folder)(stop).input_ids
    for number, options in enumerate(({"stop_words": [stop]}, {"stop_ids": ids})):
        found = ours(folder, hit, tmp_path / f"c{number}", ["speech"], **options)
        assert found["speech"]["exact_match"] > 0
    assert ours(folder, hit, tmp_path / "d", ["speech"])["speech"]["exact_match"] == 0


def test_names(tasks: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import lm_eval.tasks

    whole = lm_eval.tasks.TaskManager

    def small(include_path: str, include_defaults: bool = True) -> Any:
        return whole(include_path=include_path, include_defaults=False)  # theirs takes seconds

    monkeypatch.setattr(lm_eval.tasks, "TaskManager", small)
    with pytest.raises(ConfigError, match=r"no task 'colors'\. Did you mean 'colours'\?"):
        find_tasks(["prose", "colors"], str(tasks))


def test_without_the_harness(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "lm_eval.tasks", None)
    with pytest.raises(ConfigError, match=re.escape("pip install 'inlay[eval]'")):
        find_tasks(["hellaswag"])
