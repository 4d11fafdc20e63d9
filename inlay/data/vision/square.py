"""One view a picture, as LLaVA has it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from inlay.core.io import fingerprint
from inlay.core.types import ImagePlan, Pixels
from inlay.core.types import View as TokenView
from inlay.data.vision.common import ImageTransform, Transform, add_special_tokens
from inlay.data.vision.encoder import encoder_view, tokens_per_view
from inlay.data.vision.geometry import grid_of, token_grids
from inlay.data.vision.resize import View, pad_to_square

if TYPE_CHECKING:
    from PIL.Image import Image


class SquareImageProcessor:
    """An ``ImageProcessor`` that shows each picture once, at the size of the vision encoder.

    A picture becomes as many image tokens as the encoder has patches, without CLS and register
    tokens (CLIP-L/14 at 336 px: 576), and ``{"pixel_values": float32 [1, 3, H, W]}``, normalised
    as the encoder's own processor does it.
    """

    placeholder: str | None = None
    num_levels = 1

    def __init__(
        self,
        tokenizer: Any,
        visual_encoder: str | Path,
        *,
        pixel_shuffle_factor: int = 1,
        pad_to_square: bool = False,
        image_token: str = "<image>",
        image_transform: ImageTransform | str | None = None,
    ) -> None:
        """Read the encoder's size and normalisation.

        Args:
            tokenizer: of the language model; learns ``image_token`` if it lacks it.
            visual_encoder: folder or hub name, see ``encoder_view``.
            pixel_shuffle_factor: side of the squares of patches that the projector joins.
            pad_to_square: pad with the encoder's mean colour before resizing, so that nothing is
                cut off; otherwise the encoder's own resizing (CLIP cuts the centre out).
            image_token: text of the token that features replace.
            image_transform: a user's change of a picture, see ``Transform``.

        Raises:
            ConfigError: the encoder has no fixed view, or the factor does not fit its patches.
        """
        view, patch_size = encoder_view(visual_encoder)
        tokens = tokens_per_view(view.height, view.width, patch_size, pixel_shuffle_factor)
        self._set(tokenizer, view, tokens, pad_to_square, image_token)
        self._transform = Transform(image_transform)

    @classmethod
    def from_settings(cls, tokenizer: Any, settings: dict[str, Any]) -> SquareImageProcessor:
        """Return a processor from ``settings()``; the encoder's folder is not needed."""
        self = cls.__new__(cls)
        rest = {key: value for key, value in settings.items() if key != "view"}
        self._set(tokenizer, View.from_settings(settings["view"]), **rest)
        self._transform = Transform(None)
        return self

    def _set(
        self, tokenizer: Any, view: View, num_tokens: int, pad_to_square: bool, image_token: str
    ) -> None:
        self.view, self.num_tokens, self.pad_to_square = view, num_tokens, pad_to_square
        self.image_token = image_token
        (self.image_token_id,) = add_special_tokens(tokenizer, [image_token])
        self._plan = ImagePlan("", (self.image_token_id,) * num_tokens, 1)

    def plan(self, width: int, height: int, index: int = 0, count: int = 1) -> ImagePlan:
        """Return the tokens of a picture: the same for every size."""
        return self._plan

    def views(self, width: int, height: int) -> tuple[TokenView, ...]:
        """Return where the image tokens of a picture of this size (px) lie in it: one view.

        Its box lies within the picture where the encoder's own resizing cuts the centre out, and
        reaches outside where the picture is padded.
        """
        view = self.view
        tokens = grid_of(self.num_tokens, view.height, view.width)
        box = view.box(width, height, padded=self.pad_to_square)
        return token_grids(box, (view.height, view.width), tokens)

    def pixels(self, image: Image, seed: int = 0) -> Pixels:
        """Return ``pixel_values`` float32 ``[1, 3, H, W]`` of an RGB picture.

        Raises:
            ConfigError: the user's transform changed the picture's size.
        """
        image = self._transform(image, seed)
        if self.pad_to_square:
            mean = self.view.mean or (0.0, 0.0, 0.0)
            image = pad_to_square(image, [int(x * 255) for x in mean])
        return {"pixel_values": self.view(image)}

    def settings(self) -> dict[str, Any]:
        """Return what ``from_settings`` needs, as JSON values; the user's transform is left out."""
        return {
            "view": self.view.settings(),
            "num_tokens": self.num_tokens,
            "pad_to_square": self.pad_to_square,
            "image_token": self.image_token,
        }

    def identity(self) -> str:
        """Fingerprint of everything that decides tokens and pixels."""
        return fingerprint([self.settings(), self.image_token_id, self._transform.name])
