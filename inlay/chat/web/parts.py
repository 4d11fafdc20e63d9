"""What goes between the page and the service: settings, bounds, regions, events, refusals."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from inlay.chat.overlay import Colour, draw, enlarged, outlined
from inlay.core.errors import InlayError
from inlay.core.rle import box_of, decode_mask

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image

Box = tuple[float, float, float, float]
"""Left, top, right and bottom in px of the picture."""
Place = tuple[float, float] | Box
"""A point (x, y) or a box, in px of the picture."""


class Refused(InlayError):
    """A request that is not answered; the text says why, to the visitor."""


class Busy(Refused):
    """Too many are waiting already."""


@dataclass(frozen=True)
class Settings:
    """How a visitor's answers are made.

    Attributes:
        template: name of a prompt template; None is the one that the server was started with.
        system: system text; empty for none.
        temperature, top_k, top_p, repetition_penalty, max_new_tokens, seed: as of ``ChatSession``.
    """

    template: str | None = None
    system: str = ""
    temperature: float = 0.1
    top_k: int = 40
    top_p: float = 0.75
    repetition_penalty: float = 1.0
    max_new_tokens: int = 512
    seed: int = 0


@dataclass(frozen=True)
class Limits:
    """Bounds of the service.

    Attributes:
        waiting: requests that wait, besides the one that is answered.
        sessions: conversations that are remembered; the longest idle one goes first.
        idle_s: seconds after which an idle conversation is forgotten.
        text, system, phrase: characters.
        upload_bytes, pixels: of one upload. ``kept_pixels``: larger pictures are made smaller.
        picture_bytes: of all pictures, decoded.
        pictures: in one conversation. ``regions``: that are kept of one picture.
    """

    waiting: int = 16
    sessions: int = 64
    idle_s: float = 1800.0
    text: int = 8000
    system: int = 4000
    phrase: int = 200
    upload_bytes: int = 16 << 20
    pixels: int = 50_000_000
    kept_pixels: int = 4_000_000
    picture_bytes: int = 1 << 30
    pictures: int = 8
    regions: int = 64


@dataclass(frozen=True)
class ServiceInfo:
    """What the page shows, and which of its parts there are.

    Attributes:
        name: of the model.
        sees: it takes pictures. ``points``: its answers carry regions, and ``segment`` and
            ``mask_at`` work. ``completes``: it has no chat template and continues texts.
        templates: names for ``Settings.template``.
        defaults: settings of a new visitor; nobody may ask for more new tokens than these have.
    """

    name: str
    sees: bool
    points: bool
    completes: bool
    templates: tuple[str, ...]
    defaults: Settings
    limits: Limits

    @property
    def clicks(self) -> bool:
        """Whether a click on the picture can be answered."""
        return self.points


@dataclass(frozen=True)
class Region:
    """Words, and where in the picture they point.

    Attributes:
        number: counts the regions of one picture.
        phrase: the words. ``span``: where they stand in their answer; None for no answer.
        score: how sure the mask is, in [0, 1].
        rle: COCO's compressed run lengths, see ``encode_mask``.
        source: ``"answer"``, ``"typed"``, or ``"description"``, the model's own of the picture.
    """

    number: int
    phrase: str
    span: tuple[int, int] | None
    colour: Colour
    score: float
    rle: dict[str, Any]
    source: str

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the picture, in px."""
        height, width = self.rle["size"]
        return width, height

    @cached_property
    def box(self) -> Box | None:
        """The box around the mask; None for an empty one."""
        return box_of(self.rle)

    def mask(self) -> NDArray[np.bool_]:
        """Return the mask, bool ``[H, W]``."""
        return decode_mask(self.rle)

    def overlay(self) -> bytes:
        """Return a PNG at the picture's size: the colour, half transparent inside the mask and
        opaque at its edge; clear elsewhere."""
        return png(outlined(self.mask(), self.colour))

    def record(self) -> dict[str, Any]:
        """Return phrase, score, box, source and run lengths for a JSON file."""
        return {
            "phrase": self.phrase,
            "score": round(self.score, 6),
            "source": self.source,
            "box": self.box,
            "rle": self.rle,
        }


@dataclass(frozen=True)
class Waiting:
    """``before`` requests are answered first."""

    before: int


@dataclass(frozen=True)
class Said:
    """The answer as far as it is written."""

    text: str


@dataclass(frozen=True)
class Done:
    """The whole answer.

    Attributes:
        regions: of its phrases, in order.
        notice: a sentence about the conversation; None for nothing.
        stopped: the visitor ended it.
    """

    text: str
    regions: tuple[Region, ...] = ()
    notice: str | None = None
    stopped: bool = False


def overlay_picture(image: Image, regions: Sequence[Region]) -> bytes:
    """Return a PNG of a picture with the masks of regions and a legend; small ones are enlarged.

    Raises:
        ValueError: regions of another picture's size.
    """
    import numpy as np

    masks = np.zeros((len(regions), image.height, image.width), bool)
    for place, region in zip(masks, regions, strict=True):
        place[:] = region.mask()
    labels = [f"{region.phrase} {region.score:.2f}" for region in regions]
    colours = [region.colour for region in regions]
    return png(draw(*enlarged(image, masks), colours, labels))


def png(image: Image) -> bytes:
    """Encode a picture."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()
