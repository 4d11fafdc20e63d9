"""Masks as text: COCO's compressed run lengths."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def encode_mask(mask_HW: NDArray[np.bool_]) -> dict[str, Any]:
    """Return ``{"size": [height, width], "counts": text}``, as pycocotools reads it."""
    import numpy as np
    from pycocotools import mask as coco

    found = coco.encode(np.asfortranarray(mask_HW, dtype=np.uint8))
    height, width = mask_HW.shape
    return {"size": [height, width], "counts": found["counts"].decode("ascii")}


def decode_mask(rle: dict[str, Any]) -> NDArray[np.bool_]:
    """Return the bool mask ``[height, width]`` of ``encode_mask``."""
    from pycocotools import mask as coco

    return coco.decode(rle).astype(bool)


def box_of(rle: dict[str, Any]) -> tuple[float, float, float, float] | None:
    """Return left, top, right and bottom of the box around a mask, in px; None for an empty one."""
    from pycocotools import mask as coco

    left, top, width, height = map(float, coco.toBbox(rle))
    return (left, top, left + width, top + height) if width else None
