"""Pictures of MGM: padded to a square, at the size of its high-resolution tower."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from inlay.core.errors import ConfigError
from inlay.core.io import fingerprint
from inlay.core.types import ImagePlan, Pixels, View
from inlay.data.vision.common import ImageTransform, Transform, add_special_tokens, read_json_of
from inlay.data.vision.encoder import encoder_view
from inlay.data.vision.geometry import square_around, token_grids
from inlay.data.vision.resize import pad_to_square

if TYPE_CHECKING:
    from PIL.Image import Image

CLIP = "openai/clip-vit-large-patch14-336"


class MGMImageProcessor:
    """An ``ImageProcessor`` for MGM (arXiv 2403.18814), whose model shrinks and crops by itself.

    A picture is padded to a square with CLIP's mean colour at its own size, then resized (bicubic)
    to the side that the model's ``config.json`` names: 768 px, or 1536 px for the HD models. It
    becomes 576 image tokens, those of the HD models 576 for the whole and 576 for each of four
    crops. Pixels: ``{"pixel_values": float32 [1, 3, side, side]}``.

    Attributes:
        side: of the square, px.
        grid: crops along each side.
        has_global: whether tokens of the whole come before those of the crops.
        num_levels: maps that a head gives: of the whole, of the crops.
    """

    placeholder: str | None = None

    def __init__(
        self,
        tokenizer: Any,
        model: str,
        *,
        vision_tower: str = CLIP,
        image_token: str = "<image>",
        image_transform: ImageTransform | str | None = None,
    ) -> None:
        """Read sizes and normalisation.

        Args:
            tokenizer: of the model; learns ``image_token`` if it lacks it.
            model: folder or hub name of an MGM.
            vision_tower: folder or hub name of its CLIP.
            image_token: text of the token that features replace.
            image_transform: a user's change of a picture, see ``Transform``.

        Raises:
            ConfigError: ``model`` is no MGM.
        """
        config = read_json_of(model, "config.json") or {}
        if "image_size_aux" not in config:
            raise ConfigError(
                f"'{model}' is no MGM: its config.json must name image_size_aux, the side of the "
                "pictures in px"
            )
        coarse, patch_size = encoder_view(vision_tower)
        self.side = int(config["image_size_aux"])
        self.grid = int(config.get("image_grid") or 1)
        self.has_global = self.grid > 1 and bool(config.get("image_global"))
        self.num_levels = 2 if self.has_global else 1
        self._coarse = coarse.height
        self._tokens = (coarse.height // patch_size, coarse.height // patch_size)
        self._view = replace(coarse, height=self.side, width=self.side, shortest_edge=None)
        self.image_token = image_token
        (self.image_token_id,) = add_special_tokens(tokenizer, [image_token])
        views = self.grid**2 + self.has_global
        count = views * self._tokens[0] * self._tokens[1]
        self._plan = ImagePlan("", (self.image_token_id,) * count, views)
        self._transform = Transform(image_transform)

    def plan(self, width: int, height: int, index: int = 0, count: int = 1) -> ImagePlan:
        """Return the tokens of a picture: the same for every size."""
        return self._plan

    def pixels(self, image: Image, seed: int = 0) -> Pixels:
        """Return ``pixel_values`` float32 ``[1, 3, side, side]`` of an RGB picture.

        Raises:
            ConfigError: the user's transform changed the picture's size.
        """
        image = self._transform(image, seed)
        mean = self._view.mean or (0.0, 0.0, 0.0)
        square = pad_to_square(image, [int(x * 255) for x in mean])
        return {"pixel_values": self._view(square)}

    def views(self, width: int, height: int) -> tuple[View, ...]:
        """Return the grid of the whole, if there is one, then those of the crops, row by row."""
        square, tokens = square_around(width, height), self._tokens
        pixels = (self._coarse, self._coarse)
        tiles, before = (self.grid, self.grid), tokens[0] * tokens[1] * self.has_global
        level = self.num_levels - 1
        crops = token_grids(square, pixels, tokens, tiles=tiles, start=before, level=level)
        return (*token_grids(square, pixels, tokens), *crops) if self.has_global else crops

    def identity(self) -> str:
        """Fingerprint of everything that decides tokens and pixels."""
        settings = [self.side, self.grid, self.has_global, self._tokens, self._view.settings()]
        return fingerprint([settings, self.image_token_id, self._transform.name])
