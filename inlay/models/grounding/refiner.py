"""Coarse masks in, fine masks out: a promptable segmentation model behind the mask head.

F-LMM (arXiv 2406.05821, 3.3): SAM (arXiv 2304.02643) is prompted with the coarse mask, its box and
the hidden states of the phrase's words. Its image encoder stays frozen; prompt encoder and mask
decoder are trained.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from inlay.core.errors import ConfigError, ModelError
from inlay.models.grounding.prompts import (
    Size,
    boxes_around,
    found_masks,
    hidden_keys,
    mask_prompt,
    nearest_candidates,
    pad_text,
    resized_twice,
)

PIXEL_MEAN = (123.675, 116.28, 103.53)
PIXEL_STD = (58.395, 57.12, 57.375)
"""Of ImageNet, on a scale of 0 to 255: what SAM and SAM 2 were trained with."""
NORM_EPS = 1e-5
"""Of the mask decoder's transformer, in both originals; transformers' SAM has 1e-6."""


class Refiner(nn.Module, ABC):
    """What SAM and SAM 2 have in common; see ``SamRefiner`` and ``Sam2Refiner``.

    Args:
        sam: ``SamModel`` or ``Sam2Model`` of transformers, in float32 (autocast may lower it).
        use_text, use_mask, use_box: which prompts the decoder is given.
        multimask_output: draw several candidates and keep the one nearest to the coarse mask.
        freeze_encoder: picture embeddings are then constants, which may be cached.

    Attributes:
        picture_size: longest side, in px, of the pictures that :meth:`embed` takes.
        text_dim: width of a text prompt.

    Raises:
        ConfigError: all prompts are switched off.
    """

    sam: Any
    pixel_mean: Tensor
    pixel_std: Tensor

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
        super().__init__()
        if not (use_text or use_mask or use_box):
            raise ConfigError("refiner: at least one of use_text, use_mask, use_box must be True")
        self.sam = sam
        self.use_text, self.use_mask, self.use_box = use_text, use_mask, use_box
        self.multimask_output, self.freeze_encoder = multimask_output, freeze_encoder
        self.picture_size: int = sam.prompt_encoder.input_image_size
        self.text_dim: int = sam.prompt_encoder.hidden_size
        self.register_buffer("pixel_mean", torch.tensor(PIXEL_MEAN).view(-1, 1, 1), False)
        self.register_buffer("pixel_std", torch.tensor(PIXEL_STD).view(-1, 1, 1), False)
        # Few tokens attend or are attended to: fused kernels only lose time there.
        sam.mask_decoder.config._attn_implementation = "eager"
        for module in sam.mask_decoder.transformer.modules():
            if isinstance(module, nn.LayerNorm):
                module.eps = NORM_EPS
        for encoding in (sam.shared_image_embedding, sam.prompt_encoder.shared_embedding):
            _hold_constant(encoding, "positional_embedding")
        if freeze_encoder:
            for weight in self._encoder_weights().values():
                weight.requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True) -> Refiner:
        """Switch the mode; a frozen encoder stays in eval mode."""
        super().train(mode)
        if self.freeze_encoder:
            self.sam.vision_encoder.eval()
        return self

    def identity(self) -> str:
        """Fingerprint of all that decides what :meth:`embed` returns for a picture."""
        digest = hashlib.sha256(f"{type(self).__name__} {self.picture_size}".encode())
        for name, weight in sorted(self._encoder_weights().items()):
            digest.update(f"{name} {weight.dtype} {tuple(weight.shape)}".encode())
            flat = weight.detach().cpu().contiguous().view(-1)
            digest.update(flat.view(torch.uint8).numpy().data)
        return digest.hexdigest()[:16]

    @abstractmethod
    def input_size(self, size: Size) -> Size:
        """Return the height and width that a picture has inside of SAM's square, in px.

        Args:
            size: width and height of the picture, in px.
        """

    def embed(self, pictures: Sequence[Tensor]) -> list[dict[str, Tensor]]:
        """Encode pictures, one after the other: the bits do not depend on the batch.

        Args:
            pictures: uint8 ``[3, h, w]`` RGB, the longest side ``picture_size`` px, the other one
                ``int(side * picture_size / longest + 0.5)`` px.

        Returns:
            For each picture ``"image"`` float ``[C, h', w']``, and what else the decoder needs.

        Raises:
            ModelError: another size.
        """
        trains = torch.is_grad_enabled() and not self.freeze_encoder
        # transformers' SAM makes indices without a device: each would be copied to a GPU, layer by
        # layer, and waited for.
        with torch.set_grad_enabled(trains), self.pixel_mean.device:
            return [self._encode(self._pixels(picture)) for picture in pictures]

    def forward(
        self,
        embeddings: Sequence[dict[str, Tensor]],
        logits: Sequence[Tensor],
        text: Sequence[Tensor] | None,
        sizes: Sequence[Size],
    ) -> list[Tensor]:
        """Refine the masks of all pictures in one call of the decoder.

        Args:
            embeddings: of the pictures, from :meth:`embed`.
            logits: ``[M_i, h, w]`` coarse masks of each picture, over exactly the picture; any
                resolution. Gradients flow back through the mask prompt.
            text: ``[T, text_dim]`` for each *mask*, in order; None without text prompts.
            sizes: width and height of each picture, in px.

        Returns:
            float32 logits ``[M_i, H, W]`` at each picture's size.

        Raises:
            ModelError: text prompts are switched on and there are none.
        """
        if self.use_text and text is None:
            raise ModelError("the refiner takes text prompts and got none: set use_text=False")
        counts = [len(part) for part in logits]
        if not any(counts):
            return [self.pixel_mean.new_zeros(0, height, width) for width, height in sizes]
        coarse = [found_masks(part, size) for part, size in zip(logits, sizes, strict=True)]
        owners = [e for e, n in zip(embeddings, counts, strict=True) for _ in range(n)]
        sparse, seen = self._sparse(coarse, text or (), sizes)
        with hidden_keys(self.sam.mask_decoder.transformer, seen):
            low_res = self._decode(owners, sparse, self._dense(logits, sizes))
        if torch.is_grad_enabled():
            low_res = low_res + self._all_weights_take_part()
        parts = low_res.squeeze(1).float().split(counts)  # [M_i, candidates, h, w]
        return [self._finish(*each) for each in zip(parts, coarse, sizes, strict=True)]

    def _encoder_weights(self) -> dict[str, Tensor]:
        """Everything that the picture embeddings depend on."""
        return dict(self.sam.vision_encoder.named_parameters())

    @abstractmethod
    def _fit(self, pixels: Tensor) -> Tensor:
        """Bring ``[1, 3, h, w]`` to SAM's square."""

    @abstractmethod
    def _encode(self, pixels: Tensor) -> dict[str, Tensor]:
        """Return the embeddings of a square ``[1, 3, S, S]``, without the axis of pictures."""

    @abstractmethod
    def _decode(self, owners: Sequence[dict[str, Tensor]], sparse: Tensor, dense: Tensor) -> Tensor:
        """Return logits ``[M, 1, candidates, h, w]``; ``owners`` are embeddings, mask by mask."""

    def _pixels(self, picture: Tensor) -> Tensor:
        """Return float32 ``[1, 3, S, S]``, normalised."""
        if max(picture.shape[-2:]) != self.picture_size:
            raise ModelError(
                f"the refiner takes pictures whose longest side is {self.picture_size} px, found "
                f"{picture.shape[-1]} x {picture.shape[-2]}"
            )
        normal = (picture.to(self.pixel_mean) - self.pixel_mean) / self.pixel_std
        return self._fit(normal[None])

    def _sparse(
        self, coarse: Sequence[Tensor], text: Sequence[Tensor], sizes: Sequence[Size]
    ) -> tuple[Tensor, Tensor | None]:
        """Box and text prompts ``[M, 1, N, C]``; which text tokens are real, None for all."""
        prompts, seen = [], None
        if self.use_box:
            boxes = [self._boxes(part, size) for part, size in zip(coarse, sizes, strict=True)]
            # bfloat16 would move a corner by up to two pixels of 1024.
            with torch.autocast(self.pixel_mean.device.type, enabled=False):
                prompts.append(self._prompt(input_boxes=torch.cat(boxes)[:, None])[0])
        if self.use_text:
            padded, seen = pad_text(text)
            prompts.append(padded[:, None].float())
        if not prompts:
            masks = sum(map(len, coarse))
            return self.pixel_mean.new_zeros(masks, 1, 0, self.text_dim), None
        return torch.cat(prompts, dim=2), seen

    def _dense(self, logits: Sequence[Tensor], sizes: Sequence[Size]) -> Tensor:
        """Mask prompts ``[M, C, h, w]``, or ``[1, C, h, w]`` that says "no mask"."""
        if not self.use_mask:
            return self._prompt()[1]
        side = 4 * self.sam.prompt_encoder.image_embedding_size[0]
        prompts = [
            mask_prompt(part, self.input_size(size), self.picture_size, side)
            for part, size in zip(logits, sizes, strict=True)
            if len(part)
        ]
        return self._prompt(input_masks=torch.cat(prompts))[1]

    def _prompt(
        self, input_boxes: Tensor | None = None, input_masks: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        return self.sam.prompt_encoder(None, None, input_boxes, input_masks)

    def _boxes(self, masks: Tensor, size: Size) -> Tensor:
        """Boxes of masks ``[M, H, W]`` in px of SAM's input, float32 ``[M, 4]``."""
        height, width = self.input_size(size)
        boxes = boxes_around(masks).double()
        x, y = boxes[:, 0::2] * (width / size[0]), boxes[:, 1::2] * (height / size[1])
        return torch.stack([x, y], dim=-1).flatten(1).float()

    def _picture_positions(self) -> Tensor:
        """Position encoding of the picture's grid, float32 ``[1, C, h, w]``."""
        with torch.autocast(self.pixel_mean.device.type, enabled=False):
            return self.sam.get_image_wide_positional_embeddings()

    def _finish(self, low_res: Tensor, coarse: Tensor, size: Size) -> Tensor:
        """Return logits ``[M, H, W]`` at the picture's size from ``[M, candidates, h, w]``."""
        side = self.picture_size
        fine = resized_twice(low_res, (side, side), self.input_size(size), size[::-1])
        return nearest_candidates(fine, coarse) if self.multimask_output else fine[:, 0]

    def _all_weights_take_part(self) -> Tensor:
        """Zero, as a function of every trained weight: heads that nothing reads get a gradient of
        zero, since data parallel training waits for the gradient of every trained weight."""
        sums = [weight.sum() for weight in self.parameters() if weight.requires_grad]
        return torch.stack(sums).sum() * 0.0


def _hold_constant(module: nn.Module, name: str) -> None:
    """Make a parameter a buffer: not trained, and left alone by whatever lowers precision."""
    value = getattr(module, name).detach()
    delattr(module, name)
    module.register_buffer(name, value)
