"""Masks for phrases about a picture, from whatever can point: trained, or a frozen model alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from inlay.core.errors import ModelError
from inlay.core.io import fingerprint
from inlay.core.types import Batch
from inlay.data.grounding.collate import GroundedSample, collate
from inlay.data.grounding.dataset import refiner_picture
from inlay.data.grounding.sequence import SequenceBuilder
from inlay.data.pictures import PictureOpener
from inlay.models.grounding.maps import cut_to_picture
from inlay.models.grounding.model import FrozenGrounding, Sight, look
from inlay.models.grounding.pointing import pick_heads, point

if TYPE_CHECKING:
    from PIL.Image import Image

    from inlay.models.grounding.adapters.base import Adapter

Pieces = Sequence[tuple[str, bool]]
"""A caption in pieces, and whether each is to have a mask."""
Masks = tuple[np.ndarray, np.ndarray]
"""bool ``[M, H, W]`` at the picture's size, and float32 ``[M]`` scores in [0, 1]."""


@dataclass
class Grounder:
    """Points at what words name.

    Attributes:
        lmm: the frozen multimodal model.
        builder: writes prompt and caption as the training did.
        model: what was trained on top; None points without training.
    """

    lmm: Adapter
    builder: SequenceBuilder
    model: FrozenGrounding | None = None

    @property
    def tokenizer(self) -> Any:
        return self.builder.tokenizer

    @property
    def image_processor(self) -> Any:
        return self.builder.image_processor

    @property
    def picture_size(self) -> int | None:
        """Longest side, in px, of what the refiner sees; None without one."""
        refiner = None if self.model is None else self.model.refiner
        return None if refiner is None else refiner.picture_size

    def segment(
        self, image: Image, pieces: Pieces, is_text: bool = False, prompt: str | None = None
    ) -> Masks:
        """Ground the pieces of one caption.

        Args:
            image: RGB.
            pieces: texts of the caption in order, and which of them get a mask.
            is_text: the pieces are stretches of one text, as of ``SequenceBuilder.build``.
            prompt: what the caption answers, ``<image>`` in it; None: the prompt of the training.

        Returns:
            A mask and a score for each grounded piece, in order.

        Raises:
            DataError: a phrase without tokens, or a caption that is too long.
            ModelError: no piece is to be grounded, or the sequence exceeds the model's context.
        """
        return self._masks(image, [self._sample(image, pieces, is_text, prompt)])

    def phrases(self, image: Image, phrases: Sequence[str]) -> Masks:
        """Ground phrases, each as a caption of its own; see ``segment``."""
        return self._masks(image, [self._sample(image, [(text, True)]) for text in phrases])

    def from_sights(self, image: Image, sights: Sequence[Sight]) -> Masks:
        """Masks from what the model was seen to look at already, as while it wrote an answer."""
        if self.model is None:
            return scored(_pointed(sights, image.size, self._levels))
        pixels = self._picture(image)
        picture = torch.empty(0) if pixels is None else torch.from_numpy(pixels)
        device = self.model.device
        with self._running():
            seen = [sight.to(device) for sight in sights]
            logits = self.model.masks_of(seen, image.size, picture.to(device))
        return scored(logits)

    @property
    def _levels(self) -> int:
        return self.image_processor.num_levels

    def _masks(self, image: Image, samples: list[GroundedSample]) -> Masks:
        batch = collate(samples, PictureOpener(self.image_processor)).to(self.lmm.device)
        with self._running():
            if self.model is not None:
                logits = torch.cat(self.model.predict(**batch.inputs))
            else:
                logits = _pointed(self._sights(batch), image.size, self._levels)
        return scored(logits)

    def _sights(self, batch: Batch) -> list[Sight]:
        inputs = batch.inputs
        rows = inputs["caption_rows"], inputs["caption_masks"]
        return look(self.lmm, inputs["row"], *rows, inputs["targets"])

    def _sample(
        self, image: Image, pieces: Pieces, is_text: bool = False, prompt: str | None = None
    ) -> GroundedSample:
        number = 0
        numbered = []
        for text, grounded in pieces:
            numbered.append((text, number if grounded else -1))
            number += grounded
        if not number:
            raise ModelError("there is nothing to point at: name a phrase")
        builder = self.builder if prompt is None else self.builder.with_prompt(prompt)
        tokens = builder.build(image.size, numbered, is_text=is_text)
        self._check_length(len(tokens.ids), pieces)
        key = fingerprint([image.size, hash(image.tobytes())])
        return GroundedSample(
            tokens=tokens,
            size=image.size,
            views=self.image_processor.views(*image.size),
            masks=np.zeros((number, 0, 0), np.uint8),
            pixels=self.image_processor.pixels(image),
            tiles=self.image_processor.plan(*image.size).tiles,
            picture=self._picture(image),
            picture_key=key,
            text_key=key,
        )

    def _check_length(self, length: int, pieces: Pieces) -> None:
        most = getattr(self.lmm.decoder.config, "max_position_embeddings", None)
        if most is not None and length > most:
            longest = max((text for text, _ in pieces), key=len)
            raise ModelError(
                f"prompt and caption have {length} tokens, the model reads {most}. The longest "
                f"phrase begins with {longest[:60]!r}: shorten it"
            )

    def _picture(self, image: Image) -> np.ndarray | None:
        return None if self.picture_size is None else refiner_picture(image, self.picture_size)

    def _running(self) -> Any:
        module = self.lmm if self.model is None else self.model
        module.eval()
        return torch.inference_mode()


def _pointed(sights: Sequence[Sight], size: tuple[int, int], levels: int) -> torch.Tensor:
    """Mask logits ``[M, H, W]`` without training: one choice of heads for all phrases."""
    maps = torch.cat([sight.maps for sight in sights])
    heads = pick_heads([maps], levels=levels)
    logits = cut_to_picture(point(maps, heads, levels=levels), sights[0].canvas, size)
    return torch.nn.functional.interpolate(logits[None], size=size[::-1], mode="bilinear")[0]


def scored(logits: torch.Tensor) -> Masks:
    """Masks where ``[M, H, W]`` logits are positive, each with its mean probability there (0 where
    the mask is empty)."""
    masks = logits > 0
    inside = (logits.float().sigmoid() * masks).sum((1, 2)) / masks.sum((1, 2)).clamp(min=1)
    return masks.cpu().numpy(), inside.cpu().numpy().astype(np.float32)
