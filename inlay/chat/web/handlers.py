"""What the events of the page call. Errors of the service become sentences on the page."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterator
from typing import Any
from uuid import uuid4

import gradio as gr

from inlay.chat.web import messages
from inlay.chat.web.parts import Refused, Settings, overlay_picture
from inlay.chat.web.service import ChatService
from inlay.core.errors import InlayError

FAILED = "Something went wrong on the server."

logger = logging.getLogger("inlay")


class Handlers:
    """The page's side of a service; a visitor is a session of gradio's: one tab of a browser.

    All but ``ask`` and ``stop`` return a value for a part of the page: a dict with a ``number``, so
    that the same message twice is news twice, and with ``problem`` where there was one.
    """

    def __init__(self, service: ChatService) -> None:
        self.service = service
        self._numbers = itertools.count(1)

    def ask(
        self,
        text: str,
        template: str | None,
        system: str | None,
        temperature: float,
        top_k: float,
        top_p: float,
        repetition_penalty: float,
        max_new_tokens: float,
        seed: float | None,
        request: gr.Request,
    ) -> Iterator[dict[str, Any]]:
        """Answer a text: yields its turn as it grows, see ``messages.turn``."""
        number, answer = next(self._numbers), ""
        try:
            settings = Settings(
                template=template or None,
                system=system or "",
                temperature=temperature,
                top_k=int(top_k),
                top_p=top_p,
                repetition_penalty=repetition_penalty,
                max_new_tokens=int(max_new_tokens),
                seed=int(seed or 0),
            )
            for event in self.service.reply(_key(request), text, settings):
                answer = getattr(event, "text", answer)
                yield messages.turn(number, text, event)
        except Exception as error:
            yield messages.refused(number, text, answer, _told(error))

    def stop(self, request: gr.Request) -> None:
        """End the answer that is being written."""
        self.service.stop(_key(request))

    def new(self, request: gr.Request) -> dict[str, Any]:
        """Begin a new conversation."""
        return self._answered(lambda: self.service.reset(_key(request)))

    def show(self, path: str | None, request: gr.Request) -> dict[str, Any]:
        """Take an uploaded file: returns the ``pictures`` that the model sees next."""

        def shown() -> dict[str, Any]:
            key = _key(request)
            self.service.show(key, path or "")
            if self.service.info.points:
                images = [self.service.picture(key)]
            else:
                images = list(self.service.pending(key))
            return {"pictures": [messages.preview(image) for image in images if image]}

        return self._answered(shown)

    def drop(self, request: gr.Request) -> dict[str, Any]:
        """Take back the pictures that wait for a text."""

        def dropped() -> dict[str, Any]:
            self.service.unshow(_key(request))
            return {"pictures": []}

        return self._answered(dropped)

    def segment(self, phrase: str, request: gr.Request) -> dict[str, Any]:
        """Point at a typed phrase: returns its ``region``."""
        return self._answered(
            lambda: {"region": messages.region(self.service.segment(_key(request), phrase))}
        )

    def point(self, event: gr.EventData, request: gr.Request) -> dict[str, Any]:
        """Point at what lies at the event's ``at``, (x, y) or a box in px: returns a ``region``."""

        def found() -> dict[str, Any]:
            region = self.service.mask_at(_key(request), tuple(event.at))
            return {"region": messages.region(region)}

        return self._answered(found)

    def overlay(self, event: gr.EventData, request: gr.Request) -> dict[str, Any]:
        """Draw the regions with the event's ``numbers`` over the picture: returns a ``file``."""

        def drawn() -> dict[str, Any]:
            key = _key(request)
            regions = [r for r in self.service.regions(key) if r.number in event.numbers]
            image = self.service.picture(key)
            if image is None or not regions:
                raise Refused("these masks are gone: ask about the picture again")
            return {"file": messages.png_file("overlay.png", overlay_picture(image, regions))}

        return self._answered(drawn)

    def leave(self, request: gr.Request) -> None:
        """The visitor has closed the page."""
        self.service.close(_key(request))

    def _answered(self, make: Callable[[], dict[str, Any] | None]) -> dict[str, Any]:
        try:
            found = make() or {}
        except Exception as error:
            found = {"problem": _told(error)}
        return found | {"number": next(self._numbers)}


def _told(error: Exception) -> str:
    """The sentence for the visitor: refusals as they are, nothing of anything else."""
    if isinstance(error, InlayError):
        return str(error)
    logger.error("the page could not answer", exc_info=error)
    return FAILED


def _key(request: gr.Request) -> str:
    # A client that names no session gets one for this request alone.
    return request.session_hash or uuid4().hex
