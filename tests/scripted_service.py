"""A service without a model: it says and shows what a test has written down."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image

from inlay.chat.web.parts import Limits, Region, ServiceInfo, Settings, Waiting
from inlay.chat.web.service import Busy, ChatService, Done, Refused, Said
from inlay.chat.web.uploads import read_upload
from inlay.core.rle import encode_mask


class Scripted(ChatService):
    """Answers with ``answer``; to "busy" with a refusal, to "slow" until it is stopped.

    Args:
        info: of ``ServiceInfo``.
    """

    def __init__(self, answer: str = "A red circle.", **info: Any) -> None:
        shown = {"name": "scripted", "sees": True, "points": True, "completes": False} | info
        self.limits, self.answer = Limits(), answer
        self.info = ServiceInfo(
            **shown, templates=("llama2_chat",), defaults=Settings(), limits=self.limits
        )
        self.asked: list[Settings | None] = []
        self.waiting: list[Image.Image] = []
        self._stopped = threading.Event()

    def reply(
        self, key: str, text: str, settings: Settings | None = None
    ) -> Iterator[Waiting | Said | Done]:
        self.asked.append(settings)
        if text.startswith("busy"):
            raise Busy(f"busy: 16 others are waiting, {text}")
        yield Waiting(3)
        if text == "broken":
            raise RuntimeError("a secret of the server")
        self.waiting.clear()
        yield Said(self.answer[: len(self.answer) // 2])
        if text == "slow":
            self._stopped.wait(20)
        stopped = self._stopped.is_set()
        self._stopped.clear()
        regions = [self.region(0, self.answer)] if self.info.points else []
        yield Done(self.answer, tuple(regions), stopped=stopped)

    def region(self, number: int, phrase: str) -> Region:
        mask = np.zeros((90, 130), bool)
        mask[20:40, 30:60] = True
        span = (0, len(phrase))
        return Region(number, phrase, span, (230, 159, 0), 0.5, encode_mask(mask), "answer")

    def stop(self, key: str) -> None:
        self._stopped.set()

    def show(self, key: str, path: str) -> tuple[int, int]:
        self.waiting.append(read_upload(path, self.limits))
        return self.waiting[-1].size

    def unshow(self, key: str) -> None:
        self.waiting.clear()

    def pending(self, key: str) -> tuple[Image.Image, ...]:
        return tuple(self.waiting)

    def picture(self, key: str) -> Image.Image | None:
        return self.waiting[-1]

    def segment(self, key: str, phrase: str) -> Region:
        raise Refused(f"nothing is called {phrase}")

    def reset(self, key: str) -> None:
        self.unshow(key)

    def close(self, key: str) -> None:
        self.unshow(key)

    def shutdown(self) -> None:
        self._stopped.set()
