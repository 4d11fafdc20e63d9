"""Any image-text-to-text model of transformers, through its own processor.

What ``pixels`` returns is what the model's own processor returns for the picture, as numpy arrays
without the tokens, such that pictures join along the first axis:

- patch families (Qwen2-VL, Qwen2.5-VL, Qwen3-VL, GLM-4V): ``pixel_values [patches, d]`` and
  ``image_grid_thw`` int64 ``[1, 3]``;
- families whose model takes one flat list of views (LLaVA ``[1, 3, h, w]``, Gemma 3 and InternVL
  ``[n, 3, h, w]``, DeepSeek-VL, its hybrid with ``high_res_pixel_values`` beside): as they are;
- variable-tile families whose model takes an axis of pictures and one of tiles (LLaVA-NeXT,
  LLaVA-OneVision, Idefics3, SmolVLM: ``[1, n, 3, h, w]``): the first axis is gone,
  ``pixel_values [n, 3, h, w]``, so is that of ``pixel_attention_mask [n, h, w]``; beside it what
  the family has of ``image_sizes [1, 2]`` and ``batch_num_images [1]``.

Beside these stand ``num_rows`` int64 ``[1]``, the length of ``pixel_values``, and ``num_tokens``
int64 ``[1]``, the picture's image tokens: the model's side tells pictures apart by them.

Every picture is prepared alone: LLaVA-OneVision, which shows a picture in less detail when a
message holds several, sees each in full.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from inlay.core.errors import ConfigError
from inlay.core.io import fingerprint
from inlay.core.types import ImagePlan, Pixels, View
from inlay.data.vision.common import ImageTransform, Transform
from inlay.data.vision.geometry import stretched
from inlay.data.vision.resize import BICUBIC

if TYPE_CHECKING:
    from PIL.Image import Image


class HFImageProcessor:
    """An ``ImageProcessor`` around the processor of an image-text-to-text model.

    Attributes:
        processor: the model's processor; its video and audio parts may be missing.
        placeholder: the token that its chat template writes for a picture and that it expands.
        num_levels: 2 if the family can make tiles, else 1 (see ``views``).
    """

    def __init__(
        self,
        path_or_processor: str | Path | Any,
        tokenizer: Any = None,
        *,
        min_pixels: int | None = None,
        max_pixels: int | None = None,
        image_transform: ImageTransform | str | None = None,
    ) -> None:
        """Load the processor and find out how it turns sizes into tokens.

        Args:
            path_or_processor: folder or hub name of the model, or its processor.
            tokenizer: of the model, if it is loaded already; gets the processor's chat template
                if it has none.
            min_pixels: least area of a picture in px: smaller ones are enlarged. By the processor
                itself where it knows such a bound (Qwen-VL), otherwise before it.
            max_pixels: greatest area, likewise.
            image_transform: a user's change of a picture, see ``Transform``.

        Raises:
            ModelError: there is no processor, or it cannot be used (see ``Planner``).
            ConfigError: ``min_pixels`` above ``max_pixels``.
        """
        from inlay.data.vision.hf_plan import Planner
        from inlay.data.vision.hf_processor import load_processor
        from inlay.data.vision.hf_views import family_of

        if isinstance(path_or_processor, str | Path):
            processor = load_processor(path_or_processor, tokenizer)
        else:
            processor = copy.copy(path_or_processor)
            processor.tokenizer = tokenizer or processor.tokenizer
        self.min_pixels, self.max_pixels = min_pixels, max_pixels
        self._check_bounds()
        self.processor, self.tokenizer = processor, processor.tokenizer
        self._bounded_inside = self._hand_bounds_on()
        if not self.tokenizer.chat_template:
            self.tokenizer.chat_template = getattr(processor, "chat_template", None)
        self._planner = Planner(processor)
        self.placeholder: str | None = processor.image_token
        self.image_token_id = self._planner.image_token_id
        self.image_token: str = self.tokenizer.convert_ids_to_tokens(self.image_token_id)
        self.num_levels = family_of(processor).levels
        self._transform = Transform(image_transform)

    def _check_bounds(self) -> None:
        low, high = self.min_pixels, self.max_pixels
        if any(bound is not None and bound < 1 for bound in (low, high)) or (
            low is not None and high is not None and low > high
        ):
            raise ConfigError(
                f"min_pixels ({low}) and max_pixels ({high}) are areas in px: both positive, the"
                " first not above the second"
            )

    def _hand_bounds_on(self) -> bool:
        """Set the bounds in the image processor; return False if it knows none."""
        own = self.processor.image_processor
        if "min_pixels" not in getattr(own.valid_kwargs, "__annotations__", {}):
            return False
        size = {k: v for k, v in dict(own.size).items() if v is not None}
        size["shortest_edge"] = self.min_pixels or size["shortest_edge"]
        size["longest_edge"] = self.max_pixels or size["longest_edge"]
        self.processor.image_processor = copy.copy(own)
        self.processor.image_processor.size = type(own.size)(**size)
        return True

    def plan(self, width: int, height: int, index: int = 0, count: int = 1) -> ImagePlan:
        """Return the tokens of a picture; its place among ``count`` does not matter.

        Raises:
            DataError: the processor refuses pictures of this shape.
        """
        return self._planner(*self._bounded(width, height))

    def _bounded(self, width: int, height: int) -> tuple[int, int]:
        """Return the size within ``min_pixels`` and ``max_pixels``, same shape, whole px."""
        area, low, high = width * height, self.min_pixels, self.max_pixels
        if self._bounded_inside:
            return width, height
        if high is not None and area > high:
            scale = (high / area) ** 0.5
            return max(1, int(width * scale)), max(1, int(height * scale))
        if low is not None and area < low:
            scale = (low / area) ** 0.5
            return -int(-width * scale // 1), -int(-height * scale // 1)
        return width, height

    def views(self, width: int, height: int) -> tuple[View, ...]:
        """Return where the image tokens of a picture of this size (px) lie in it.

        Level 0 is the view of the whole picture, level 1 its tiles (see ``hf_views``).

        Raises:
            DataError: the processor refuses pictures of this shape.
            ModelError: it is not known where a family's tokens lie.
        """
        from inlay.data.vision.hf_views import Shown, find_views

        plan, token = self.plan(width, height), self.image_token_id
        markers = self.tokenizer.decode([i for i in plan.ids if i != token])
        wide, high = self._bounded(width, height)
        shown = Shown(self.processor, wide, high, plan, plan.ids.count(token), markers)
        return stretched(find_views(shown), width / wide, height / high)

    def pixels(self, image: Image, seed: int = 0) -> Pixels:
        """Return the processor's arrays for an RGB picture, see the top of this file.

        Raises:
            ConfigError: the user's transform changed the picture's size.
        """
        from inlay.data.vision.hf_plan import call, joinable

        tokens = self.plan(*image.size).ids.count(self.image_token_id)
        image = self._transform(image, seed)
        size = self._bounded(*image.size)
        if size != image.size:
            image = image.resize(size, BICUBIC)
        pixels = joinable(call(self.processor, image))
        return {**pixels, "num_tokens": np.array([tokens], np.int64)}

    def settings(self) -> dict[str, Any]:
        """Return the bounds; everything else stands in the processor's own files."""
        return {"min_pixels": self.min_pixels, "max_pixels": self.max_pixels}

    def identity(self) -> str:
        """Fingerprint of everything that decides tokens and pixels."""
        own = self.processor.to_dict()
        own["image_processor"] = self.processor.image_processor.to_dict()
        known = [own, self.settings(), self.image_token_id, self._transform.name]
        return fingerprint(known)
