"""DeepSpeed on gloo ranks: the run of one device, cut up; killed, resumed on other numbers."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from runs import (
    EXACT,
    Child,
    inlay,
    recorded,
    scalars,
    start_ranks,
    stop_at,
    train,
    trained,
    write_config,
)

from inlay.engine import checkpoint as ckpt
from inlay.engine.parallel.deepspeed_config import locate
from inlay.engine.parallel.deepspeed_setup import set_up

pytest.importorskip("deepspeed")

LOSS = EXACT.index("loss")
NORM = EXACT.index("grad_norm")
SETTINGS: dict[str, Any] = {
    "pack_to_max_length": False,
    "lr": 1e-3,
    "val_fraction": 0.2,
    "evaluation_inputs": ["hi"],
}
ONE, TWO = "batch_size=2", "batch_size=1"
"""The same global batch on one rank and on two."""


@pytest.fixture(scope="module", autouse=True)
def warm_deepspeed() -> None:
    """Import once, in the parent, what every forked rank would import for seconds."""
    set_up(torch.device("cpu"))
    import deepspeed.runtime.zero.muon.muon_optimizer  # noqa: F401

    import inlay.engine.parallel.deepspeed  # noqa: F401


def sharing(stage: str, folder: Path) -> list[str]:
    """The option; ZeRO-3 leaves small weights whole, and these models have no others."""
    name = f"deepspeed_{stage}"
    if not stage.startswith("zero3"):
        return ["--deepspeed", name]
    config = json.loads(locate(name).read_text(encoding="utf-8"))
    config["zero_optimization"]["stage3_param_persistence_threshold"] = 0
    path = folder / f"{name}.json"
    path.write_text(json.dumps(config), encoding="utf-8")
    return ["--deepspeed", str(path)]


def words(config: Path, work: Path, stage: str, batch: str = TWO) -> list[str | Path]:
    """A command that goes on where a run stands."""
    options = [*sharing(stage, work.parent), "--cfg-options", batch]
    return ["train", config, "--work-dir", work, "--resume", *options]


def train_two(config: Path, work: Path, *more: str | Path) -> str:
    """Run ``inlay train`` on two ranks to a good end; return rank 0's output."""
    return finish(start_ranks(["train", config, "--work-dir", work, *more], config.parent, 2))


def finish(children: list[Child], code: int = 0) -> str:
    """Wait for all ranks, which leave with ``code``; return rank 0's output."""
    codes = [child.wait(240) for child in children]
    assert codes == [code] * len(children), "\n".join(child.text for child in children)
    return children[0].text


def stopped_at(batch: int, number: int = signal.SIGTERM) -> Callable[[], None]:
    """For ``before``: a signal comes in the middle of micro-batch ``batch`` of DeepSpeed."""

    def patch() -> None:
        from inlay.engine.parallel.deepspeed import ZeRO

        forward, seen = ZeRO.forward, [0]

        def counted(self: Any, model: Any, batch_: Any) -> Any:
            seen[0] += 1
            if seen[0] == batch:
                os.kill(os.getpid(), number)
            return forward(self, model, batch_)

        ZeRO.forward = counted  # type: ignore[method-assign]

    return patch


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """Config and work dir ``one`` of a run of one process, without DeepSpeed."""
    folder = tmp_path_factory.mktemp("plain")
    config = write_config(folder, tiny_model, **SETTINGS)
    train(config, folder / "one", "--cfg-options", ONE)
    return config


def final(work: Path) -> list[tuple[Any, ...]]:
    """The training records, of those that were made twice the last one."""
    last = {r["iter"]: tuple(r[k] for k in EXACT) for r in scalars(work) if "loss" in r}
    return [last[i] for i in sorted(last)]


def check_same_run(expected: Path, got: Path) -> None:
    """Every line, every validation and the weights agree within 1e-5."""
    one, two = trained(expected), final(got)
    exact = [i for i in range(len(EXACT)) if i not in (LOSS, NORM)]
    assert [[r[i] for i in exact] for r in one] == [[r[i] for i in exact] for r in two]
    assert max(abs(a[LOSS] - b[LOSS]) for a, b in zip(one, two, strict=True)) <= 1e-5
    norms = [(a[NORM], b[NORM]) for a, b in zip(one, two, strict=True) if a[NORM]]
    assert min(a for a, _ in norms) > 1.0, "the test needs gradients that are clipped"
    assert max(abs(a - b) / a for a, b in norms) <= 1e-5
    judged = [[r["val/loss"] for r in scalars(run) if "val/loss" in r] for run in (expected, got)]
    assert len(judged[0]) == len(judged[1]) == 2
    assert max(abs(a - b) for a, b in zip(*judged, strict=True)) <= 1e-5
    check_same_weights(expected, got)


def check_same_weights(expected: Path, got: Path) -> None:
    one, two = ckpt.load_weights(expected), ckpt.load_weights(got)
    assert {k: (v.shape, v.dtype) for k, v in one.items()} == {
        k: (v.shape, v.dtype) for k, v in two.items()
    }
    assert all(v.numel() for v in two.values())
    assert max((one[k] - two[k]).abs().max() for k in one) <= 1e-5


def answers(log: str) -> list[str]:
    """What the chat hook has heard, in order."""
    return re.findall(r"Sample output:\n(.*?)\n\n", log, re.DOTALL)


@pytest.mark.parametrize(
    "stage",
    [
        "zero2",
        "zero3",
        pytest.param("zero1", marks=pytest.mark.long),
        pytest.param("zero2_offload", marks=pytest.mark.long),
        pytest.param("zero3_offload", marks=pytest.mark.long),
    ],
)
def test_two_ranks_make_the_run_of_one(
    tmp_path: Path, plain: Path, stage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Clipping, ragged windows, a short last one, validation, chat; and nothing is compiled."""
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path / "extensions"))
    options = [*sharing(stage, tmp_path), "--cfg-options", TWO]
    said = train_two(plain, tmp_path / "two", *options)
    check_same_run(plain.parent / "one", tmp_path / "two")
    logs = list((plain.parent / "one").glob("*/*.log"))
    heard = answers("".join(log.read_text(encoding="utf-8") for log in logs))
    assert len(heard) == 3 and answers(said) == heard
    assert not (tmp_path / "extensions").exists()
    assert "deprecated" not in said and "Traceback" not in said


def test_from_two_ranks_to_one_and_back(tmp_path: Path, plain: Path) -> None:
    """ZeRO-3 on two ranks, then no DeepSpeed at all, then ZeRO-2 on two: one and the same run."""
    work = tmp_path / "w"
    finish(start_ranks(words(plain, work, "zero3"), tmp_path, 2, [stopped_at(9), None]), 143)
    files = {p.name for p in (work / "iter_10").glob("optimizer*")}
    assert files == {"optimizer_0.safetensors", "optimizer_1.safetensors"}
    alone = ["train", plain, "--work-dir", work, "--resume", "--cfg-options", ONE]
    code, text = inlay(alone, tmp_path, stop_at(9))
    assert code == 143, text
    assert re.search(r"world_size +2 +1 +continues", text), text
    finish(start_ranks(words(plain, work, "zero2"), tmp_path, 2))
    check_same_run(plain.parent / "one", work)


@pytest.mark.long
@pytest.mark.parametrize("stage", ["zero1", "zero3_offload"])
def test_other_stages_go_on_on_one_rank_and_back(tmp_path: Path, plain: Path, stage: str) -> None:
    work = tmp_path / "w"
    finish(start_ranks(words(plain, work, stage), tmp_path, 2, [stopped_at(9), None]), 143)
    code, text = inlay(words(plain, work, stage, ONE), tmp_path, stopped_at(9))
    assert code == 143, text
    finish(start_ranks(words(plain, work, stage), tmp_path, 2))
    check_same_run(plain.parent / "one", work)


@pytest.mark.long
@pytest.mark.parametrize("stage", ["zero2", "zero3"])
def test_killed_and_resumed_to_the_same_bits(tmp_path: Path, tiny_model: Path, stage: str) -> None:
    """With dropout, a checkpoint inside of an accumulation window, and LoRA."""
    record = tmp_path / "docs"
    config = write_config(
        tmp_path, tiny_model, dropout=0.1, save_steps=3, batch_size=1, record=str(record)
    )
    options = sharing(stage, tmp_path)
    train_two(config, tmp_path / "whole", *options)
    whole = recorded(record)
    Path(f"{record}.0").unlink()
    work = tmp_path / "w"
    start = ["train", config, "--work-dir", work, "--resume", *options]
    children = start_ranks(
        start, tmp_path, 2, [stopped_at(6, signal.SIGKILL), stopped_at(6, signal.SIGKILL)]
    )
    codes = [child.wait(240) for child in children]
    assert all(codes), children[0].text
    train_two(config, work, "--resume", *options)
    done = {line["iter"]: line for line in recorded(record)}
    assert [done[i] for i in sorted(done)] == whole
    assert final(work) == trained(tmp_path / "whole")
    for k, v in ckpt.load_weights(tmp_path / "whole").items():
        assert torch.equal(v, ckpt.load_weights(work)[k]), k


@pytest.mark.long
def test_lora_under_zero_3(tmp_path: Path, tiny_model: Path) -> None:
    config = write_config(tmp_path, tiny_model, dropout=0.0, **SETTINGS)
    train(config, tmp_path / "one", "--cfg-options", ONE)
    options = [*sharing("zero3", tmp_path), "--cfg-options", TWO]
    train_two(config, tmp_path / "two", *options)
    saved = ckpt.load_weights(tmp_path / "two")
    assert saved and all("lora_" in name for name in saved)
    check_same_weights(tmp_path / "one", tmp_path / "two")


@pytest.mark.long
@pytest.mark.parametrize("stage", ["zero2", "zero3"])
def test_bfloat16_in_one_process_resumes_to_the_same_bits(
    tmp_path: Path, tiny_model: Path, stage: str
) -> None:
    """The command of the exercises. What is saved are the full-precision weights."""
    config = write_config(tmp_path, tiny_model, dropout=0.1)
    options = [*sharing(stage, tmp_path), "--cfg-options", "optim_wrapper.dtype=bfloat16"]
    train(config, tmp_path / "whole", *options)
    code, text = inlay(
        ["train", config, "--work-dir", tmp_path / "w", *options], tmp_path, stopped_at(5)
    )
    assert code == 143, text
    train(config, tmp_path / "w", "--resume", *options)
    assert final(tmp_path / "w") == trained(tmp_path / "whole")
    saved = ckpt.load_weights(tmp_path / "w")
    assert all(v.dtype is torch.float32 for v in saved.values())
    assert any((v != v.bfloat16().float()).any() for v in saved.values())
    plain = tmp_path / "plain"
    train(config, plain, "--cfg-options", "optim_wrapper.dtype=bfloat16")
    pairs = zip(trained(plain), final(tmp_path / "w"), strict=True)
    assert max(abs(a[LOSS] - b[LOSS]) for a, b in pairs) < 0.02


def test_dry_run(tmp_path: Path, tiny_model: Path) -> None:
    """The weights that it counts are cut up."""
    config = write_config(tmp_path, tiny_model, **SETTINGS)
    run = ["train", config, "--dry-run"]
    code, text = inlay([*run, *sharing("zero3", tmp_path)], tmp_path)
    assert code == 0, text
    code, plain = inlay(run, tmp_path)
    count = re.compile(r"[\d,]+ trainable parameters")
    assert count.findall(text) == count.findall(plain) != []
