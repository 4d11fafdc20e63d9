"""SAM 2 as a refiner (arXiv 2408.00714): its picture half, without the memory of videos."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from inlay.models.grounding.prompts import Size
from inlay.models.grounding.refiner import Refiner
from inlay.models.grounding.sam import load_hf


class Sam2Refiner(Refiner):
    """Refines masks with SAM 2. Pictures are stretched to its square, as it was trained.

    The two convolutions that thin the high-resolution features out run in :meth:`embed` and count
    as part of the encoder: what is kept of a picture is five times smaller.

    Args: as of ``Refiner``; ``sam`` is a ``Sam2Model``.
    """

    def __init__(
        self,
        *,
        sam: Any,
        use_text: bool = True,
        use_mask: bool = True,
        use_box: bool = True,
        multimask_output: bool = False,
        freeze_encoder: bool = True,
    ) -> None:
        super().__init__(
            sam=sam,
            use_text=use_text,
            use_mask=use_mask,
            use_box=use_box,
            multimask_output=multimask_output,
            freeze_encoder=freeze_encoder,
        )
        # In eval mode the decoder would swap an unstable mask for another candidate.
        sam.mask_decoder.dynamic_multimask_via_stability = False

    @classmethod
    def from_pretrained(
        cls,
        checkpoint: str,
        use_text: bool = True,
        use_mask: bool = True,
        use_box: bool = True,
        multimask_output: bool = False,
        freeze_encoder: bool = True,
    ) -> Sam2Refiner:
        """Load SAM 2 or 2.1.

        Args:
            checkpoint: a folder in Hugging Face layout or a hub name, such as
                ``facebook/sam2.1-hiera-large``.
            use_text, use_mask, use_box, multimask_output, freeze_encoder: as of ``Refiner``.

        Raises:
            ModelError: no SAM 2 is there.
        """
        from transformers import Sam2Model

        return cls(
            sam=load_hf(Sam2Model, checkpoint, ("sam2", "sam2_video")),
            use_text=use_text,
            use_mask=use_mask,
            use_box=use_box,
            multimask_output=multimask_output,
            freeze_encoder=freeze_encoder,
        )

    def input_size(self, size: Size) -> Size:
        """Return the height and width of SAM 2's square, which any picture fills."""
        return self.picture_size, self.picture_size

    def _encoder_weights(self) -> dict[str, Tensor]:
        decoder = self.sam.mask_decoder
        thinning = {
            f"{name}.{key}": weight
            for name in ("conv_s0", "conv_s1")
            for key, weight in getattr(decoder, name).named_parameters()
        }
        own = {"no_memory_embedding": self.sam.no_memory_embedding}
        return super()._encoder_weights() | thinning | own

    def _fit(self, pixels: Tensor) -> Tensor:
        square = (self.picture_size, self.picture_size)
        return F.interpolate(pixels, size=square, mode="bilinear", antialias=True)

    def _encode(self, pixels: Tensor) -> dict[str, Tensor]:
        finest, finer, image = self.sam.vision_encoder(pixels).fpn_hidden_states
        decoder = self.sam.mask_decoder
        return {
            "image": (image + self.sam.no_memory_embedding.view(1, -1, 1, 1))[0],
            "finer": decoder.conv_s1(finer)[0],
            "finest": decoder.conv_s0(finest)[0],
        }

    def _decode(self, owners: Sequence[dict[str, Tensor]], sparse: Tensor, dense: Tensor) -> Tensor:
        image, finer, finest = (
            torch.stack([own[name] for own in owners]) for name in ("image", "finer", "finest")
        )
        return self.sam.mask_decoder(
            image_embeddings=image,
            image_positional_embeddings=self._picture_positions(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=self.multimask_output,
            high_resolution_features=[finest, finer],
        )[0]
