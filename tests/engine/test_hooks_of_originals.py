"""Hooks and trackers that configs of the originals ask for."""

from __future__ import annotations

import logging
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from inlay.core.types import StepOutput
from inlay.engine.hooks import HFCheckpointHook, StageHook
from inlay.engine.hooks.base import POINTS, HookList
from inlay.engine.hooks.stages import is_main, main_only, print_log


class Stages(StageHook):
    def __init__(self) -> None:
        self.seen: list[str] = []

    def _before_epoch(self, runner: Any, mode: str = "train") -> None:
        self.seen.append(f"before_{mode}_epoch")

    def _after_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None,
        mode: str = "train",
    ) -> None:  # fmt: skip
        self.seen.append(f"after_{mode}_iter {batch_idx}")


def test_stages_stand_for_three_modes() -> None:
    hook = Stages()
    for mode in ("train", "val", "test"):
        getattr(hook, f"before_{mode}_epoch")(None)
        getattr(hook, f"after_{mode}_iter")(None, 3)
    assert hook.seen == [
        f"{x}" for m in ("train", "val", "test") for x in (f"before_{m}_epoch", f"after_{m}_iter 3")
    ]


def test_every_point_can_be_called_with_what_the_engine_gives() -> None:
    hooks = HookList([StageHook()])
    for point in POINTS:
        given: dict[str, Any] = {}
        if point.endswith("_iter"):
            given = {"batch_idx": 0, "data_batch": None}
            given |= {"outputs": None} if point.startswith("after") else {}
        elif "checkpoint" in point:
            given = {"checkpoint": {}}
        elif point in ("after_val_epoch", "after_test_epoch"):
            given = {"metrics": {}}
        hooks.call(point, None, **given)


def test_outputs_read_as_those_of_mmengine() -> None:
    outputs = StepOutput(torch.tensor(6.0), 3, {"accuracy": torch.tensor(0.5)})
    assert outputs["loss"].item() == 2.0
    assert {k: v.item() for k, v in dict(outputs).items()} == {"loss": 2.0, "accuracy": 0.5}
    with pytest.raises(KeyError):
        outputs["nothing"]


def test_the_model_is_exported_at_the_end(tmp_path: Path) -> None:
    written: list[tuple[Any, Path]] = []
    whole = SimpleNamespace(whole=lambda model: nullcontext())
    runner = SimpleNamespace(rank=0, work_dir=tmp_path, logger=logging.getLogger("test"))
    runner.strategy, runner.model = whole, None
    other = SimpleNamespace(**{**vars(runner), "rank": 1})
    HFCheckpointHook(lambda *given: written.append(given)).after_train(runner)
    HFCheckpointHook(lambda *given: written.append(given), "there").after_train(runner)
    HFCheckpointHook(lambda *given: written.append(given)).after_train(other)
    assert written == [(runner, tmp_path / "hf_model"), (runner, Path("there"))]


def test_only_the_main_process_acts(monkeypatch: pytest.MonkeyPatch) -> None:
    double = main_only(lambda x: 2 * x)
    assert is_main() and double(2) == 4
    monkeypatch.setenv("RANK", "1")
    assert not is_main() and double(2) is None


def test_print_log(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("inlay")
    monkeypatch.setattr(logger, "handlers", [handler])
    monkeypatch.setattr(logger, "level", logging.INFO)
    monkeypatch.setattr(logger, "_cache", {})  # of what is logged at which level
    print_log("50% said", logger="current")
    print_log("not said", logger="silent")
    assert said == ["50% said"]
