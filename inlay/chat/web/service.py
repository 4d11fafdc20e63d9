"""One model, many visitors: conversations apart, one answer at a time, everything bounded."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from inlay.chat.grounded import GroundedSession, Pointed
from inlay.chat.session import ChatSession
from inlay.chat.web.checks import checked
from inlay.chat.web.parts import (
    Busy,
    Done,
    Limits,
    Place,
    Refused,
    Region,
    Said,
    ServiceInfo,
    Settings,
    Waiting,
    overlay_picture,
)
from inlay.chat.web.pointing import choose, describe, inside, regions_of
from inlay.chat.web.sessions import Visit, Visits
from inlay.chat.web.uploads import read_upload
from inlay.chat.web.worker import Job, Worker
from inlay.data.templates import PROMPT_TEMPLATE, check_template

if TYPE_CHECKING:
    from PIL.Image import Image

    from inlay.chat.grounder import Grounder
    from inlay.chat.open import Opened

PATIENCE = 2.0
"""Seconds to wait for the end of a visitor's own request that was given up."""

__all__ = [
    "Busy",
    "ChatService",
    "Done",
    "Limits",
    "Refused",
    "Region",
    "Said",
    "ServiceInfo",
    "Settings",
    "Waiting",
    "overlay_picture",
]


class ChatService:
    """Answers many visitors with one model, in the order in which they ask.

    Every method may be called from any thread. ``key`` names a visitor; a conversation comes into
    being when it is first used. What a visitor may not do raises ``Refused``, ``Busy`` where the
    queue is full; what the model cannot do, another ``InlayError``. Visitors may read their texts.

    Args:
        opened: model, tokenizer, image processor and template.
        grounder: of the same model; its answers then point at the picture.
        name: shown to visitors.
        template: a template dict; None takes ``opened.template``, or the tokenizer's own.
        defaults: settings of a new visitor.
        stop_words: texts that end an answer.
        phrases: who chooses the phrases that are pointed at, one of ``grounded.PHRASES``.
    """

    def __init__(
        self,
        opened: Opened,
        grounder: Grounder | None = None,
        *,
        name: str = "",
        template: Any = None,
        defaults: Settings | None = None,
        stop_words: Sequence[str] = (),
        phrases: str = "auto",
        limits: Limits | None = None,
    ) -> None:
        self.opened, self.grounder, self.phrases = opened, grounder, phrases
        self.template = opened.template if template is None else template
        self.stop_words = list(stop_words)
        self.limits = limits or Limits()
        self.defaults = defaults or Settings()
        probe = self._new_chat(self.defaults, None)
        self.info = ServiceInfo(
            name=name,
            sees=opened.image_processor is not None,
            points=grounder is not None,
            completes=probe.completes,
            templates=tuple(PROMPT_TEMPLATE),
            defaults=self.defaults,
            limits=self.limits,
        )
        self._visits = Visits(self.limits)
        self._worker = Worker(self.limits.waiting)

    def show(self, key: str, path: str) -> tuple[int, int]:
        """Take an uploaded picture, and return its width and height when upright.

        With grounding a new conversation begins, about this picture; without, it goes with the
        next text.

        Args:
            path: a file of this machine.
        """
        visit = self._idle(key)
        if not self.info.sees:
            raise Refused("this model reads text only: it cannot be shown a picture")
        image = read_upload(path, self.limits)
        if self.info.points:
            visit.forget(keep_picture=False)
        elif visit.num_pictures + len(visit.pending) >= self.limits.pictures:
            raise Refused(
                f"a conversation takes {self.limits.pictures} pictures: please start a new one"
            )
        else:
            visit.pending.append(image)
        visit.image = image
        self._visits.visit(key)  # once more: pictures of others make room for it
        return image.size

    def unshow(self, key: str) -> None:
        """Take back the pictures that were to go with the next text."""
        self._idle(key).pending = []

    def picture(self, key: str) -> Image | None:
        """Return the last picture, upright, in RGB."""
        visit = self._visits.known(key)
        return None if visit is None else visit.image

    def pending(self, key: str) -> tuple[Image, ...]:
        """Return the pictures that go with the next text."""
        visit = self._visits.known(key)
        return () if visit is None else tuple(visit.pending)

    def regions(self, key: str) -> tuple[Region, ...]:
        """Return what was pointed at in the picture, oldest first."""
        visit = self._visits.known(key)
        return () if visit is None else tuple(visit.regions)

    def reply(
        self, key: str, text: str, settings: Settings | None = None
    ) -> Iterator[Waiting | Said | Done]:
        """Answer a text: ``Waiting`` and ``Said``, at least one in a second, then ``Done``.

        Closing the iterator ends the answer at the next token; the turn is then forgotten.

        Args:
            settings: another template, system text or seed than before begins a new conversation.
        """
        settings = checked(text, settings or self.defaults, self.info)
        job = self._submit(key, partial(self._answer, text=text, settings=settings))
        yield from self._worker.follow(job)

    def stop(self, key: str) -> None:
        """End the answer that is being written; what was said stays."""
        visit = self._visits.known(key)
        if visit is not None and visit.job is not None:
            visit.job.stopped = True

    def reset(self, key: str) -> None:
        """Begin a new conversation; with grounding about the same picture."""
        self._idle(key).forget(keep_picture=self.info.points)

    def segment(self, key: str, phrase: str) -> Region:
        """Return where in the picture a phrase points."""
        phrase = " ".join(phrase.split())
        if not phrase:
            raise Refused("type what should be pointed at")
        if len(phrase) > self.limits.phrase:
            raise Refused(f"the phrase is longer than {self.limits.phrase} characters")
        self._check_picture(key)
        return self._result(key, partial(self._segment, phrase=phrase))

    def mask_at(self, key: str, place: Place) -> Region:
        """Return what the model names at a place of the picture.

        Of all that was named in it so far, and in the model's own description of it (made at the
        first call): the smallest mask under a point, or the one that fits a box best.
        """
        self._check_picture(key)
        return self._result(key, partial(self._mask_at, place=place))

    def close(self, key: str) -> None:
        """Forget a visitor."""
        visit = self._visits.drop(key)
        if visit is not None and visit.job is not None:
            self._worker.cancel(visit.job)

    def shutdown(self) -> None:
        """Give up all answers and end the worker."""
        self._worker.close()

    def _idle(self, key: str) -> Visit:
        visit = self._visits.visit(key)
        if visit.job is not None and visit.job.cancelled:
            visit.job.finished.wait(PATIENCE)
        if visit.is_busy:
            raise Refused("the last request is still being answered")
        return visit

    def _submit(self, key: str, work: Callable[[Job, Visit], Any]) -> Job:
        visit = self._idle(key)
        visit.job = self._worker.submit(lambda job: work(job, visit))
        return visit.job

    def _result(self, key: str, work: Callable[[Job, Visit], Any]) -> Any:
        return self._worker.result(self._submit(key, work))

    def _check_picture(self, key: str) -> None:
        if not self.info.points:
            raise Refused("this model does not point: start the server with --ground")
        if self.picture(key) is None:
            raise Refused("there is no picture yet: upload one first")

    def _answer(self, job: Job, visit: Visit, text: str, settings: Settings) -> Done:
        chat = self._chat(visit, settings)
        notices = [visit.notice] if visit.notice else []
        chat.on_notice, chat.should_stop = notices.append, job.should_stop
        images = list(visit.pending)
        answer = chat.reply(text, job.say, images)
        job.should_stop()
        visit.notice, visit.pending = None, []
        visit.num_pictures += len(images)
        regions: list[Region] = []
        if isinstance(chat, GroundedSession) and chat.pointed is not None:
            regions = self._keep(visit, chat.pointed, "answer")
            chat.pointed = None  # its masks are large
        return Done(answer, tuple(regions), " ".join(notices) or None, job.stopped)

    def _chat(self, visit: Visit, settings: Settings) -> ChatSession:
        """The visitor's conversation, with these settings."""
        old = visit.settings
        same = ("template", "system", "seed")
        if visit.chat is None or any(getattr(old, n) != getattr(settings, n) for n in same):
            visit.chat = self._new_chat(settings, visit.image if self.info.points else None)
            visit.num_pictures = 0
        visit.settings = settings
        for name, value in _sampling(settings).items():
            setattr(visit.chat, name, value)
        return visit.chat

    def _new_chat(self, settings: Settings, image: Image | None) -> ChatSession:
        named = settings.template
        template = self.template if named is None else check_template(named)
        common: dict[str, Any] = {
            "system": settings.system or None,
            "stop_words": self.stop_words,
            "seed": settings.seed,
            **_sampling(settings),
        }
        if image is not None and self.grounder is not None:
            return GroundedSession(self.grounder, image, template, phrases=self.phrases, **common)
        model, tokenizer = self.opened.model, self.opened.tokenizer
        processor = self.opened.image_processor
        return ChatSession(model, tokenizer, template, image_processor=processor, **common)

    def _segment(self, job: Job, visit: Visit, phrase: str) -> Region:
        grounder, image = self._pointing(visit)
        pointed = Pointed(phrase, [(0, len(phrase))], *grounder.phrases(image, [phrase]))
        job.should_stop()
        return self._keep(visit, pointed, "typed")[0]

    def _mask_at(self, job: Job, visit: Visit, place: Place) -> Region:
        grounder, image = self._pointing(visit)
        place = inside(place, image.size)
        if not visit.described:
            most = self.defaults.max_new_tokens
            pointed = describe(grounder, image, self.phrases, most, job.should_stop)
            self._keep(visit, pointed, "description")
            visit.described = True
        found = choose(visit.regions, place)
        if found is None:
            raise Refused("nothing that the model names lies there: type what you mean instead")
        return found

    def _pointing(self, visit: Visit) -> tuple[Grounder, Image]:
        if self.grounder is None or visit.image is None:
            raise Refused("there is nothing to point at")
        return self.grounder, visit.image

    def _keep(self, visit: Visit, pointed: Pointed, source: str) -> list[Region]:
        """Number what was pointed at, and remember it."""
        regions = regions_of(pointed, visit.num_regions, source)
        visit.num_regions += len(regions)
        visit.regions = [*visit.regions, *regions][-self.limits.regions :]
        return regions


def _sampling(settings: Settings) -> dict[str, Any]:
    names = ("temperature", "top_k", "top_p", "repetition_penalty", "max_new_tokens")
    return {name: getattr(settings, name) for name in names}
