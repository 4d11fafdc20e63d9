"""Pages of HTML: no script, no second file, and no trust in the texts that they show."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from inlay.core.errors import DataError
from inlay.core.io import write_text
from inlay.core.types import ImageRef
from inlay.data.vision.files import open_image

if TYPE_CHECKING:
    from PIL.Image import Image

TEMPLATES = Path(__file__).with_name("html")
_NO_CHARACTER = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")


def write_page(path: Path, template: str, **values: Any) -> None:
    """Fill ``html/<template>`` and write it. Every value is escaped: it is text, never markup."""
    pages = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined
    )
    text = pages.get_template(template).render(values)
    write_text(path, _NO_CHARACTER.sub("\ufffd", text))


def picture(ref: ImageRef, side: int = 384) -> dict[str, Any]:
    """Return a picture for a page: ``url`` (a ``data:`` URL, scaled down) or why there is none,
    ``problem``.

    Args:
        side: longest side in px.
    """
    try:
        return {"url": data_url(open_image(ref), side), "problem": None}
    except DataError as error:
        return {"url": None, "problem": str(error)}


def data_url(image: Image, side: int) -> str:
    """Return an RGB picture as a JPEG in a ``data:`` URL, its longest side ``side`` px at most."""
    image.thumbnail((side, side))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
