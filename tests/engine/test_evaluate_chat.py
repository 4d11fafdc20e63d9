"""The hook that lets a model answer while it trains: its pictures."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from inlay.core.errors import ConfigError, DataError
from inlay.engine.hooks import EvaluateChatHook
from inlay.engine.parallel.single import SingleDevice


class Eyes:
    """Stands for an image processor."""


def ask(hook: EvaluateChatHook, times: int = 1) -> list[tuple[str, Any]]:
    """Ask at the end of training; return the tables that are logged."""
    tables: list[tuple[str, Any]] = []
    runner: Any = SimpleNamespace(
        rank=0,
        logger=logging.getLogger("test"),
        model=None,
        strategy=SingleDevice(torch.device("cpu")),
        track_table=lambda name, rows: tables.append((name, rows)),
    )
    for _ in range(times):
        hook.after_train(runner)
    return tables


def made(calls: list[tuple[str, str | None]], **settings: Any) -> EvaluateChatHook:
    def respond(
        model: Any, tokenizer: Any, template: Any, system: str, text: str, length: int,
        stop_words: Any, image: str | None = None, image_processor: Any = None,
    ) -> str:  # fmt: skip
        if image == "gone.jpg":
            raise DataError("there is no gone.jpg")
        assert settings.get("image_processor") is image_processor
        calls.append((text, image))
        return f"{text}: yes"

    return EvaluateChatHook(None, ["a", "b"], respond=respond, **settings)


@pytest.mark.parametrize(
    ("images", "expected"),
    [("x.jpg", ["x.jpg", "x.jpg"]), (["x.jpg", None], ["x.jpg", None]), (None, [None, None])],
)
def test_one_picture_or_one_each(images: Any, expected: list[str | None]) -> None:
    calls: list[tuple[str, str | None]] = []
    ask(made(calls, evaluation_images=images, image_processor=Eyes()))
    assert calls == list(zip(["a", "b"], expected, strict=True))


def test_a_picture_that_cannot_be_read_is_left_out_and_told_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    calls: list[tuple[str, str | None]] = []
    images = ["gone.jpg", "x.jpg"]
    hook = made(calls, evaluation_images=images, image_processor=Eyes())
    ask(hook, times=3)
    assert calls == [("a", None), ("b", "x.jpg")] * 3
    (warning,) = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert "gone.jpg" in warning and "'a'" in warning


def test_answers_become_a_table() -> None:
    hook = made([], evaluation_images=["x.jpg", None], image_processor=Eyes())
    rows = [
        {"input": "a", "image": "x.jpg", "output": "a: yes"},
        {"input": "b", "image": "", "output": "b: yes"},
    ]
    assert ask(hook) == [("generations", rows)]


def test_a_question_that_cannot_be_asked_is_no_matter_of_pictures() -> None:
    hook = made([], image_processor=Eyes())

    def refuse(*args: Any) -> str:
        raise DataError("the template refuses it")

    hook.respond = refuse
    with pytest.raises(DataError, match="refuses"):
        ask(hook)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"evaluation_images": "x.jpg"}, "need an image_processor"),
        ({"evaluation_images": ["x"] * 3, "image_processor": Eyes()}, "3 evaluation_images for 2"),
    ],
)
def test_settings_that_do_not_fit(settings: dict[str, Any], expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        made([], **settings)
