"""Settings that reach a whole run: its name, learning rates by part, compile, timeouts."""

from __future__ import annotations

import json
import re
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from runs import inlay, scalars, start_ranks, stop_at, train, trained, write_config

from inlay.config import run_name
from inlay.core.errors import ConfigError
from inlay.engine import checkpoint as ckpt

SCHEDULE = "param_scheduler=[]"


def options(*more: str) -> list[str]:
    return ["--cfg-options", SCHEDULE, *more]


# -- names ---------------------------------------------------------------------------------------


def test_a_name_is_filled_in_recorded_and_kept_on_resume(tmp_path: Path, tiny_model: Path) -> None:
    config = write_config(tmp_path, tiny_model, max_epochs=4, save_steps=2)
    template = "run_name=tiny_{model_path}_{num_gpus}xGPU_bs{global_batch}_lr{lr:.0e}_{date}"
    words = ["train", config, "--work-dir", tmp_path / "w", *options(template)]
    assert inlay(words, tmp_path, stop_at(4))[0] == 143
    time.sleep(1.1)  # a name made now would have another date
    train(config, tmp_path / "w", "--resume", *options(template))
    names = [r["run_name"] for r in scalars(tmp_path / "w") if "run_name" in r]
    assert len(names) == 2 and names[0] == names[1]
    assert re.fullmatch(rf"tiny_{tiny_model.name}_1xGPU_bs4_lr1e-02_\d{{4}}-\d{{6}}", names[0])
    assert ckpt.read(ckpt.newest_valid(tmp_path / "w")[0]).state["run_name"] == names[0]


def test_fields_are_settings_their_last_part_or_the_name_of_a_class() -> None:
    cfg = {"llm": "org/SmolLM2-135M", "lr": 5e-5, "optim": timedelta, "steps": 40_000, "node": {}}
    name = run_name.resolve({**cfg, "run_name": "{llm}_{optim}_{lr}_{steps}-{{x}}"}, 8, 16)
    assert name == "SmolLM2-135M_timedelta_5e-05_40000-{x}"
    assert run_name.resolve(cfg, 8, 16) is None
    with pytest.raises(ConfigError, match=r"no 'num_gpu'\. Did you mean 'num_gpus'"):
        run_name.resolve({**cfg, "run_name": "{num_gpu}"}, 8, 16)
    for bad in ("{node}", "{lr.real}", "{llm:.2f}", "{open", "{}"):
        with pytest.raises(ConfigError, match="run_name"):
            run_name.resolve({**cfg, "run_name": bad}, 8, 16)


# -- learning rates by part ----------------------------------------------------------------------

PARTS = "optim_wrapper.lr_groups={'llm.lm_head': 3e-2, 'llm.model.embed_tokens': 0}"


def test_parts_learn_at_their_rates_and_resume_exactly(tmp_path: Path, tiny_model: Path) -> None:
    config = write_config(tmp_path, tiny_model, save_steps=2)
    train(config, tmp_path / "whole", "--cfg-options", PARTS)
    words = ["train", config, "--work-dir", tmp_path / "w", "--cfg-options", PARTS]
    assert inlay(words, tmp_path, stop_at(5))[0] == 143
    train(config, tmp_path / "w", "--resume", "--cfg-options", PARTS)
    # A window that was cut short is trained, and logged, again: to the same numbers.
    assert set(trained(tmp_path / "w")) == set(trained(tmp_path / "whole"))
    rows = [r for r in scalars(tmp_path / "w") if "loss" in r]
    assert all(r["lr"] == r["lr/llm.lm_head"] == pytest.approx(r["lr/rest"] * 3) for r in rows)

    saved = ckpt.load_weights(tmp_path / "w")
    assert "llm.lm_head.weight" in saved and "llm.model.embed_tokens.weight" not in saved
    # A test and a resume see the same trained set: one that does not is refused.
    judged = ["test", config, "--checkpoint", tmp_path / "w"]
    split = ["val_fraction=0.3"]
    assert inlay([*judged, "--cfg-options", PARTS, *split], tmp_path)[0] == 0
    code, text = inlay([*judged, "--cfg-options", *split], tmp_path)
    assert code == 1 and "1 trained weights are missing" in text


def test_a_part_that_is_not_there_stops_the_run_before_it_starts(
    tmp_path: Path, tiny_model: Path
) -> None:
    config = write_config(tmp_path, tiny_model)
    wrong = "optim_wrapper.lr_groups={'llm.lm_haed': 1e-3}"
    code, text = inlay(["train", config, "--work-dir", tmp_path / "w", *options(wrong)], tmp_path)
    assert code == 1 and "Did you mean 'llm.lm_head'?" in text
    assert "Traceback" not in text


# -- compile and timeouts ------------------------------------------------------------------------


@pytest.mark.parametrize("value,compiled", [("False", False), ("false", False), ("True", True)])
def test_compile_is_on_only_when_it_is_true(
    tmp_path: Path, tiny_model: Path, value: str, compiled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fault 12: ``--compile False`` was true."""
    from inlay.app.dry_run import dry_run
    from inlay.models import compile

    calls: list[str] = []
    monkeypatch.setattr(compile, "compile_blocks", lambda model: calls.append(type(model).__name__))
    config = write_config(tmp_path, tiny_model)
    dry_run(str(config), [f"env_cfg.compile={value}"])
    assert calls == (["SupervisedFinetune"] if compiled else [])
    with pytest.raises(ConfigError, match=r"env_cfg\.compile: expected bool, got 'False' \(str\)"):
        dry_run(str(config), ["env_cfg.compile='False'"])


@pytest.mark.long
def test_a_compiled_model_trains_to_the_same_loss_under_its_own_names(
    tmp_path: Path, tiny_model: Path
) -> None:
    config = write_config(tmp_path, tiny_model, max_epochs=1)
    train(config, tmp_path / "plain")
    train(config, tmp_path / "compiled", "--cfg-options", "env_cfg.compile=True")
    plain, compiled = (trained(tmp_path / run) for run in ("plain", "compiled"))
    assert [r[:3] for r in plain] == [r[:3] for r in compiled]
    assert [r[3] for r in compiled] == pytest.approx([r[3] for r in plain], rel=1e-4)
    names = [set(ckpt.load_weights(tmp_path / run)) for run in ("plain", "compiled")]
    assert names[0] == names[1]


def test_ranks_give_up_on_one_another_after_the_timeout(tmp_path: Path, tiny_model: Path) -> None:
    config = write_config(tmp_path, tiny_model)

    def hang() -> None:
        from inlay.engine.parallel.single import SingleDevice

        forward, seen = SingleDevice.forward, [0]

        def slow(self: Any, model: Any, batch: Any) -> Any:
            seen[0] += 1
            if seen[0] == 3:
                time.sleep(6)
            return forward(self, model, batch)

        SingleDevice.forward = slow  # type: ignore[method-assign]

    words = ["train", config, "--work-dir", tmp_path / "w", *options()]
    words += ["env_cfg.dist_cfg.timeout=2", "env_cfg.dist_cfg.backend=gloo"]
    began = time.monotonic()
    first, second = start_ranks(words, tmp_path, 2, [None, hang])
    assert first.wait() not in (0, -9), first.text
    assert time.monotonic() - began < 5.5
    assert re.search(r"[Tt]imed? ?out", first.text), first.text
    assert second.wait() != 0


# -- the hub -------------------------------------------------------------------------------------


def test_the_trained_model_is_exported_and_a_dead_hub_costs_nothing(
    tmp_path: Path, tiny_model: Path
) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    config = write_config(tmp_path, tiny_model, val_fraction=0.3)
    hook = 'custom_hooks.append(dict(type="PushToHubHook", repo_id="me/tiny"))'
    config.write_text(f"{config.read_text()}\n{hook}\n")

    def no_hub() -> None:
        import huggingface_hub

        def fail(*_: Any, **__: Any) -> None:
            raise ConnectionError("the hub is down")

        huggingface_hub.HfApi.create_repo = fail  # type: ignore[method-assign]

    text = train(config, tmp_path / "w", before=no_hub)
    assert "the hub is down" in text and f"inlay push {tmp_path / 'w' / 'hub'} me/tiny" in text
    (best,) = (tmp_path / "w").glob("best_loss_iter_*")
    sent = AutoModelForCausalLM.from_pretrained(tmp_path / "w" / "hub").state_dict()
    for name, weight in ckpt.load_weights(best).items():
        assert torch.equal(sent[name.removeprefix("llm.")].half(), weight.half()), name


# -- before the run ------------------------------------------------------------------------------


def test_a_dry_run_tells_how_long_the_run_will_take(tmp_path: Path, tiny_model: Path) -> None:
    config = write_config(tmp_path, tiny_model, val_fraction=0.3, save_steps=4, max_length=64)
    words = ["train", config, "--dry-run", "--json", "--cfg-options", "max_epochs=50"]
    code, text = inlay(words, tmp_path)
    assert code == 0, text
    result = json.loads(text.splitlines()[-1])
    parts = result["time"]
    assert parts["total"] == pytest.approx(
        parts["training"] + parts["validation"] + parts["checkpoints"]
    )
    assert min(parts.values()) > 0 and result["update_s"] > 0
    code, text = inlay(["plan", config, "--json", "--cfg-options", "max_epochs=50"], tmp_path)
    plan = json.loads(text.splitlines()[-1])
    assert parts["training"] == pytest.approx(plan["updates"] * result["update_s"])
    assert plan["validations"] == 50
    code, text = inlay(["plan", config, "--time"], tmp_path)
    assert code == 0 and re.search(r"^time +about \d+:\d\d:\d\d", text, re.M), text
    assert not (tmp_path / "work_dirs").exists()
