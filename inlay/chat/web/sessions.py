"""The visitors' conversations, apart from each other and bounded in number and memory."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict, deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from inlay.chat.web.parts import Busy, Limits, Refused, Region, Settings

if TYPE_CHECKING:
    from PIL.Image import Image

    from inlay.chat.session import ChatSession
    from inlay.chat.web.worker import Job

LONGEST_KEY = 128
"""Characters."""
_REMEMBERED = 1000  # keys of conversations that were forgotten


@dataclass
class Visit:
    """One visitor's conversation.

    Attributes:
        chat: None until the first text. ``settings``: that it was made with.
        image: the picture that regions are of. ``pending``: pictures that go with the next text.
        regions: of ``image``, oldest first. ``described``: its own description was asked for.
        job: the last request.
        notice: to be told with the next answer.
    """

    chat: ChatSession | None = None
    settings: Settings | None = None
    image: Image | None = None
    pending: list[Image] = field(default_factory=list)
    num_pictures: int = 0
    regions: list[Region] = field(default_factory=list)
    num_regions: int = 0
    described: bool = False
    job: Job | None = None
    notice: str | None = None
    last_used: float = 0.0

    @property
    def is_busy(self) -> bool:
        return self.job is not None and not self.job.finished.is_set()

    @property
    def picture_bytes(self) -> int:
        """Of the decoded pictures that it keeps, at three bytes a pixel."""
        images = list(self.pending)
        images += [] if self.image is None else [self.image]
        images += [] if self.chat is None else self.chat.pictures.images
        distinct = {id(image): image for image in images}.values()
        return sum(3 * image.width * image.height for image in distinct)

    def forget(self, keep_picture: bool) -> None:
        """Begin a new conversation."""
        self.chat, self.settings = None, None
        self.pending, self.num_pictures = [], 0
        self.regions, self.num_regions, self.described = [], 0, False
        if not keep_picture:
            self.image = None


class Visits:
    """Conversations by key. The longest idle ones are forgotten, for their age, their number or
    the memory of all pictures."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._visits: OrderedDict[str, Visit] = OrderedDict()  # longest idle first
        self._forgotten: deque[str] = deque(maxlen=_REMEMBERED)
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._visits)

    def visit(self, key: str) -> Visit:
        """Return the conversation of a key, a new one where there is none.

        Raises:
            Busy: as many as there may be are being answered.
            Refused: no usable key.
        """
        if not key or len(key) > LONGEST_KEY:
            raise Refused("the page has no session: please load it again")
        with self._lock:
            found = self._visits.get(key)
            if found is None:
                found = self._visits[key] = Visit()
                if key in self._forgotten:
                    self._forgotten.remove(key)
                    found.notice = "The conversation was idle for long and starts anew."
            found.last_used = time.monotonic()
            self._visits.move_to_end(key)
            self._trim(key)
            return found

    def known(self, key: str) -> Visit | None:
        """Return the conversation of a key, or None."""
        return self._visits.get(key)

    def drop(self, key: str) -> Visit | None:
        """Take a conversation out."""
        with self._lock:
            return self._visits.pop(key, None)

    def _trim(self, newest: str) -> None:
        old = time.monotonic() - self.limits.idle_s
        idle = [k for k, v in self._visits.items() if k != newest and not v.is_busy]
        memory = sum(visit.picture_bytes for visit in self._visits.values())
        for key in idle:
            visit = self._visits[key]
            too_many = len(self._visits) > self.limits.sessions
            if not (too_many or memory > self.limits.picture_bytes or visit.last_used < old):
                break
            memory -= visit.picture_bytes
            del self._visits[key]
            self._forgotten.append(key)
        if len(self._visits) > self.limits.sessions:
            del self._visits[newest]
            raise Busy("busy: too many are talking at once. Please try again in a moment.")
