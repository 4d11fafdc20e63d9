"""A run in numbers before it starts: text and pictures, memory by estimate and by measurement."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from runs import inlay, write_config

from inlay.app.memory.estimate import estimate, meta_model
from inlay.app.plan import describe, make_plan
from inlay.app.train import checked_config

SEEING = """
from transformers import AutoModelForCausalLM, AutoTokenizer
from torch.optim import AdamW
from inlay.data import ChatDataset, SquareImageProcessor
from inlay.engine import OptimWrapper, TrainLoop, WarmupCosineLR
from inlay.models import LLaVAModel, load_visual_encoder
tokenizer = dict(type=AutoTokenizer.from_pretrained, pretrained_model_name_or_path={llm!r})
image_processor = dict(
    type=SquareImageProcessor, tokenizer=tokenizer, visual_encoder={encoder!r},
)
model = dict(
    type=LLaVAModel,
    tokenizer=tokenizer,
    llm=dict(type=AutoModelForCausalLM.from_pretrained, pretrained_model_name_or_path={llm!r}),
    visual_encoder=dict(type=load_visual_encoder, pretrained_model_name_or_path={encoder!r}),
)
train_dataloader = dict(
    batch_size=2,
    dataset=dict(
        type=ChatDataset, sources=[dict(path={data!r})], image_folder={images!r},
        tokenizer=tokenizer, image_processor=image_processor, max_length=128,
    ),
)
lr_projector = 1e-3
optim_wrapper = dict(
    type=OptimWrapper, optimizer=dict(type=AdamW), accumulative_counts=2,
    lr_groups=dict(projector=lr_projector, visual_encoder=0, llm=1e-4),
)
param_scheduler = dict(type=WarmupCosineLR)
train_cfg = dict(type=TrainLoop, max_epochs=3)
"""


@pytest.fixture(scope="module")
def seeing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A config of a tiny model with eyes, and ten rows: six with a picture."""
    import tiny_vlms
    from PIL import Image

    folder = tmp_path_factory.mktemp("seeing")
    (folder / "images").mkdir()
    rows = []
    for number in range(10):
        question: dict[str, Any] = {"from": "human", "value": f"what is {number}?"}
        row = {"conversations": [question, {"from": "gpt", "value": f"it is {number}"}]}
        if number < 6:
            Image.new("RGB", (40 + number, 30), (number, 0, 0)).save(
                folder / "images" / f"{number}.png"
            )
            question["value"] = "<image>\n" + question["value"]
            row["image"] = f"{number}.png"
        rows.append(row)
    (folder / "rows.json").write_text(json.dumps(rows))
    values = {
        "llm": str(tiny_vlms.llama(folder / "llm")),
        "encoder": str(tiny_vlms.clip(folder / "encoder")),
        "data": str(folder / "rows.json"),
        "images": str(folder / "images"),
    }
    config = folder / "seeing.py"
    config.write_text(SEEING.format(**values))
    return config


def test_a_plan_counts_pictures_and_what_is_trained(seeing: Path) -> None:
    cfg = checked_config(str(seeing), [])
    plan = make_plan(cfg)
    assert (plan["samples"], plan["pictures"], plan["tiles"]) == (10, 6, 6)
    assert plan["lr_curve"][-1][1] < 1e-3 and max(r for _, r in plan["lr_curve"]) == 1e-3
    assert "6, 6 tiles" in describe(plan)
    # The estimate knows what the built model would say, without having loaded it.
    from inlay.app.assemble import Parts

    real = Parts(cfg, seed=0).model()
    trained = sum(p.numel() for p in real.parameters() if p.requires_grad)
    grown = 2 * real.llm.config.hidden_size  # rows for the image's tokens
    assert trained - grown <= plan["memory"]["trained"] <= trained
    assert not any(p.requires_grad for p in real.visual_encoder.parameters())
    tower = sum(p.numel() for p in real.visual_encoder.parameters())
    assert plan["memory"]["parameters"] - plan["memory"]["trained"] == tower


def test_pictures_cost_memory_and_more_so_where_the_tower_learns(seeing: Path) -> None:
    frozen = checked_config(str(seeing), [])
    learning = checked_config(str(seeing), ["optim_wrapper.lr_groups.visual_encoder=1e-4"])
    costs = [
        estimate(cfg, meta_model(cfg), 128, 0.5, tiles)["activations"]
        for cfg, tiles in ((frozen, 0), (frozen, 8), (learning, 8))
    ]
    assert costs[0] < costs[1] < costs[2]


def test_a_model_that_cannot_be_estimated_is_said(seeing: Path, tmp_path: Path) -> None:
    text = seeing.read_text().replace("type=LLaVAModel,", 'type=LLaVAModel, projector="mpl",')
    config = tmp_path / "odd.py"
    config.write_text(text)
    plan = make_plan(checked_config(str(config), []))
    assert "memory" not in plan and "mpl" in plan["memory_unknown"]
    assert "memory        cannot be estimated (ModelError" in describe(plan)


def test_a_seeing_run_starts_with_a_dry_one(seeing: Path) -> None:
    code, text = inlay(["train", seeing, "--dry-run", "--json"], seeing.parent)
    assert code == 0, text
    result = json.loads(text.splitlines()[-1])
    assert 4 < result["loss"] < 8 and result["grad_norm"] > 0
    assert result["time"]["validation"] == 0


# -- measured ------------------------------------------------------------------------------------


def test_memory_is_measured_by_batch_size(tmp_path: Path, tiny_model: Path) -> None:
    config = write_config(tmp_path, tiny_model, pack_to_max_length=False)
    words = ["memory", config, "--batch-sizes", "64", "2", "--json"]
    code, text = inlay(words, tmp_path)
    assert code == 0, text
    small, large = json.loads(text.splitlines()[-1])
    assert (small["batch_size"], large["batch_size"]) == (2, 64)
    assert 100 < small["peak_mb"] <= large["peak_mb"] * 1.05
    assert small["note"] == "" and large["note"] == "the data fill only 30 of 64"


def test_what_does_not_fit_is_a_row_and_ends_the_table(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny_model: Path
) -> None:
    import subprocess

    from inlay.app.memory import by_batch as batch_memory

    outcomes = {
        1: (0, json.dumps({"peak_mb": 100.4, "update_s": 0.5, "items": 30}), ""),
        2: (1, "", "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB"),
        4: (0, "never asked", ""),
    }
    asked: list[int] = []

    def run(words: Any) -> Any:
        (size,) = (int(w.split("=")[1]) for w in words if w.startswith("train_dataloader.batch"))
        assert "optim_wrapper.accumulative_counts=2" in words
        asked.append(size)
        return subprocess.CompletedProcess([], *outcomes[size])

    monkeypatch.setattr(batch_memory, "_inlay", run)
    config = str(write_config(tmp_path, tiny_model, accumulative_counts=16))
    rows = list(batch_memory.measure(config, [4, 2, 1]))
    assert asked == [1, 2]
    assert [(r.batch_size, r.peak_mb, r.note) for r in rows] == [
        (1, 100, ""),
        (2, None, "out of memory"),
    ]
    assert "         2             -           -   out of memory" in batch_memory.table(rows)
    outcomes[1] = (-9, "", "")
    assert [r.note for r in batch_memory.measure(config, [1])] == ["out of memory"]
    outcomes[1] = (1, "", "error: no data")
    with pytest.raises(batch_memory.InlayError, match="batch size 1: the run failed\nerror: no"):
        list(batch_memory.measure(config, [1]))
