"""Grounded chat where the model is on a GPU: one that is not there (``devices.py``), and a real
one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import tiny_grounder
import torch
from devices import GPU, PretendGPU

from inlay.chat.grounded import GroundedSession
from inlay.chat.grounder import Grounder

QUESTION = "describe the picture."
PIECES = [("a", False), (" red circle", True), (" and", False), (" a square", True)]


@contextmanager
def no_generators(devices: Sequence[torch.device]) -> Iterator[None]:
    """A GPU that is not there has no random numbers to keep."""
    assert list(devices) in ([], [GPU])
    yield


def copies(selector: bool = True) -> list[Grounder]:
    return [tiny_grounder.tiny_grounder(selector=selector) for _ in range(2)]


def to_gpu(grounder: Grounder) -> Grounder:
    assert grounder.model is not None
    grounder.model.to("cuda")
    assert grounder.lmm.device.type == grounder.model.device.type == "cuda"
    return grounder


def answers(grounder: Grounder, phrases: str) -> list[Any]:
    """Two turns about a picture."""
    image = tiny_grounder.scene().resize((130, 90))
    session = GroundedSession(grounder, image, temperature=0, max_new_tokens=12, phrases=phrases)
    found = []
    for question in (QUESTION, "what is the leftmost object?"):
        session.reply(question)
        found.append(session.pointed)
    return found


def assert_same(found: Any, expected: Any, atol: float = 0.0) -> None:
    """Masks and scores, but for pixels at a mask's edge where a GPU rounds otherwise."""
    assert found[0].shape == expected[0].shape
    assert (found[0] != expected[0]).mean() <= atol
    assert np.allclose(found[1], expected[1], atol=atol)


def check_chat(atol: float = 0.0) -> None:
    here, there = copies()
    to_gpu(there)
    for phrases in ("nouns", "selector"):
        for one, other in zip(answers(there, phrases), answers(here, phrases), strict=True):
            assert (one.text, one.spans) == (other.text, other.spans)
            assert_same((one.masks, one.scores), (other.masks, other.scores), atol)


def check_pieces(atol: float = 0.0) -> None:
    here, there = copies(selector=False)
    to_gpu(there)
    image = tiny_grounder.scene()
    assert_same(there.segment(image, PIECES), here.segment(image, PIECES), atol)
    texts = ["a circle", "the square"]
    assert_same(there.phrases(image, texts), here.phrases(image, texts), atol)
    here.model = there.model = None  # points without training
    assert_same(there.phrases(image, texts), here.phrases(image, texts), atol)


def test_a_chat_mixes_no_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.random, "fork_rng", no_generators)
    with PretendGPU():
        check_chat()


def test_phrases_mix_no_devices() -> None:
    with PretendGPU():
        check_pieces()


@pytest.mark.gpu
def test_a_chat_on_a_gpu_is_that_of_the_cpu() -> None:
    check_chat(atol=2e-3)


@pytest.mark.gpu
def test_phrases_on_a_gpu_are_those_of_the_cpu() -> None:
    check_pieces(atol=2e-3)
