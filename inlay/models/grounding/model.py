"""A frozen multimodal model that answers "where?": attention maps, mask head, refiner.

F-LMM (arXiv 2406.05821): the attention of a phrase's words to the image tokens, layer by layer and
head by head, becomes the channels of a picture that a U-Net turns into a mask; SAM, prompted with
that mask, its box and the words' hidden states, draws the mask's edge.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from inlay.core.errors import ConfigError, did_you_mean
from inlay.core.io import fingerprint
from inlay.core.types import GroundingTarget, ImageProcessor, StepOutput, View
from inlay.models.grounding.adapters.base import Adapter
from inlay.models.grounding.cache import FeatureCache
from inlay.models.grounding.capture import MERGES
from inlay.models.grounding.maps import cut_to_picture
from inlay.models.grounding.mask_head import UNetHead
from inlay.models.grounding.means import MaskMeans
from inlay.models.grounding.refiner import Refiner
from inlay.models.grounding.selector import KeywordSelector
from inlay.models.grounding.sight import Sight, look, packed, packed_bytes, unpacked

__all__ = ["FrozenGrounding", "Sight", "look"]


class FrozenGrounding(nn.Module):
    """Trains everything but the multimodal model and the refiner's image encoder.

    Args:
        lmm: the frozen multimodal model.
        image_processor: its image processor: it knows how many maps one head gives.
        mask_head: maps to a coarse mask; its input channels are set here.
        refiner: coarse mask to a fine one; None for none.
        merge: how the tokens of a phrase are joined, ``"mean"`` or ``"max"``.
        selector: also train to tell which words of an answer name something that can be pointed at.
        cache: keeps what the frozen networks give; None computes it each time.

    Raises:
        ConfigError: ``merge`` is neither.
    """

    def __init__(
        self,
        *,
        lmm: Adapter,
        image_processor: ImageProcessor,
        mask_head: UNetHead,
        refiner: Refiner | None = None,
        merge: str = "mean",
        selector: bool = False,
        cache: FeatureCache | None = None,
    ) -> None:
        super().__init__()
        if merge not in MERGES:
            known = ", ".join(MERGES)
            raise ConfigError(
                f"merge must be one of {known}, found '{merge}'.{did_you_mean(merge, MERGES)}"
            )
        self.lmm, self.mask_head, self.refiner = lmm, mask_head, refiner
        self.image_processor, self.merge, self.cache = image_processor, merge, cache
        channels = lmm.num_map_layers * lmm.num_heads * image_processor.num_levels
        mask_head.set_in_channels(channels)
        self.uses_text = refiner is not None and refiner.use_text
        if self.uses_text:
            assert refiner is not None
            self.text_proj = nn.Linear(lmm.hidden_size, refiner.text_dim)
        if self.uses_text or selector:
            self.text_layer_weights = nn.Parameter(torch.ones(lmm.num_layers))
        self.selector = KeywordSelector(lmm.hidden_size) if selector else None
        self._recent: dict[str, dict[str, Tensor]] = {}
        if cache is not None:
            cache.bind(self._picture_identity(), self._text_identity())

    @property
    def device(self) -> torch.device:
        return self.mask_head.conv_seg.weight.device

    def text_bytes(self, views: Sequence[View], num_masks: int, num_tokens: int) -> int:
        """Return the bytes that the cache keeps of a text, known before the model runs.

        Args:
            views: of the picture.
            num_tokens: that name a mask; with a selector, all of the caption's.
        """
        width = self.lmm.num_layers * self.lmm.hidden_size
        return packed_bytes(views, num_masks, self.mask_head.in_channels, num_tokens, width)

    def _picture_identity(self) -> str | None:
        if self.refiner is None or not self.refiner.freeze_encoder:
            return None
        return self.refiner.identity()

    def _text_identity(self) -> str:
        processor = self.image_processor.identity()
        return fingerprint([self.lmm.identity(), processor, self.merge, self.selector is not None])

    def forward(
        self,
        row: dict[str, Any] | None,
        caption_rows: Tensor,
        caption_masks: Tensor,
        targets: list[GroundingTarget],
        masks: list[Tensor],
        pictures: list[Tensor],
        trained: bool = True,
    ) -> StepOutput:
        """Return the losses of coarse and fine masks, summed over masks.

        Each sample's loss is its mean over masks (and pixels), weighted by its number of masks, as
        F-LMM has it; the selector's is a mean over the sample's tokens with the same weight. So the
        loss of a batch is the sum of those of its samples. Logged are means over masks:
        ``loss_mask``, ``loss_dice``, ``accuracy`` and ``aiou`` of the mask head, the same four with
        ``sam_`` of the refiner, ``loss_selector``.

        Args:
            row: ``input_ids``, ``position_ids``, ``doc_starts``, ``longest_document``, ``images``
                and ``image_positions`` of a flat row with one document for every sample that is
                not cached; None where all are.
            caption_rows: int64 ``[T]`` places in the row of the caption's tokens.
            caption_masks: int64 ``[T]`` the mask of the batch that each names, or -1.
            targets: the samples.
            masks: uint8 ``[M, H, W]`` for each sample, 0 or 1, at the size of its picture.
            pictures: uint8 ``[3, h, w]`` for each sample, the longest side as the refiner wants
                it; empty where there is no refiner, or where its embedding is cached.
            trained: False for a batch that only keeps the ranks in step: its loss is 0 without any
                unit, and has a gradient of 0 for every trained weight.
        """
        sights = self._look(row, caption_rows, caption_masks, targets)
        coarse = self._coarse(sights, targets)
        means = MaskMeans()
        losses = [
            means.judge("", logits, _resized(mask, logits.shape[-2:]))
            for logits, mask in zip(coarse, masks, strict=True)
        ]
        if self.refiner is not None:
            fine = self._refine(coarse, sights, targets, pictures)
            losses += [means.judge("sam_", *pair) for pair in zip(fine, masks, strict=True)]
        if self.selector is not None:
            losses += [self._selector_loss(sight, means) for sight in sights]
        loss = torch.stack(losses).sum()
        if not trained:
            return StepOutput(loss * 0.0, 0)
        return StepOutput(loss, sum(map(len, masks)), means.result())

    @torch.no_grad()
    def predict(
        self,
        row: dict[str, Any] | None,
        caption_rows: Tensor,
        caption_masks: Tensor,
        targets: list[GroundingTarget],
        pictures: list[Tensor],
        **_unused: Any,
    ) -> list[Tensor]:
        """Return the logits of each sample's masks, float ``[M, H, W]`` at the picture's size.

        Args: as of ``forward``; the true masks are not needed.
        """
        sights = self._look(row, caption_rows, caption_masks, targets)
        return self._fine(sights, targets, pictures)

    @torch.no_grad()
    def masks_of(self, sights: Sequence[Sight], size: tuple[int, int], picture: Tensor) -> Tensor:
        """Return logits ``[M, H, W]`` of all masks of one picture that was looked at already.

        Args:
            size: width and height of the picture, in px.
            picture: as one of ``pictures`` of ``forward``.
        """
        key = hashlib.sha256(picture.cpu().numpy().tobytes()).hexdigest()[:16]
        targets = [
            GroundingTarget(size, (), 0, 0, len(sight.maps), None, key, "") for sight in sights
        ]
        return torch.cat(self._fine(list(sights), targets, [picture] * len(sights)))

    def _fine(
        self, sights: list[Sight], targets: Sequence[GroundingTarget], pictures: list[Tensor]
    ) -> list[Tensor]:
        """Logits ``[M, H, W]`` at the pictures' sizes."""
        coarse = self._coarse(sights, targets)
        if self.refiner is not None:
            return self._refine(coarse, sights, targets, pictures)
        return [
            F.interpolate(logits[None].float(), size=target.size[::-1], mode="bilinear")[0]
            for logits, target in zip(coarse, targets, strict=True)
        ]

    def layer_mean(self, hidden: Tensor) -> Tensor:
        """Return ``[T, D]``: the learned mean of hidden states ``[L, T, D]`` over layers."""
        weights = torch.softmax(self.text_layer_weights, dim=0)
        return torch.einsum("l,ltd->td", weights, hidden.to(weights.dtype))

    def _look(
        self,
        row: dict[str, Any] | None,
        caption_rows: Tensor,
        caption_masks: Tensor,
        targets: Sequence[GroundingTarget],
    ) -> list[Sight]:
        """Run the frozen model for what is not cached; sights in the order of ``targets``."""
        fresh = [target for target in targets if target.document is not None]
        seen: list[Sight] = []
        if fresh:
            assert row is not None
            seen = look(self.lmm, row, caption_rows, caption_masks, fresh, self.merge)
            if self.selector is None:
                seen = [sight.named() for sight in seen]
        made = iter(seen)
        if self.cache is None or not self.cache.texts:
            return list(made)
        found = []
        for target in targets:
            if target.document is None:
                kept = self.cache.text(target.text_key)
            else:
                # What is kept is used at once, too: every epoch sees the same numbers.
                kept = packed(next(made))
                self.cache.keep_text(target.text_key, kept)
            found.append(unpacked(kept, self.device))
        return found

    def _coarse(self, sights: list[Sight], targets: Sequence[GroundingTarget]) -> list[Tensor]:
        """Logits ``[M, h, w]`` of the mask head, cut to the picture; one call for each shape."""
        by_shape: dict[tuple[int, ...], list[int]] = {}
        for number, sight in enumerate(sights):
            by_shape.setdefault(tuple(sight.maps.shape[1:]), []).append(number)
        found: dict[int, Tensor] = {}
        for numbers in by_shape.values():
            maps = torch.cat([sights[n].maps for n in numbers])
            logits = self.mask_head(maps.to(self.device))
            counts = [len(sights[n].maps) for n in numbers]
            for n, part in zip(numbers, logits.split(counts), strict=True):
                found[n] = cut_to_picture(part, sights[n].canvas, targets[n].size)
        return [found[n] for n in range(len(sights))]

    def _refine(
        self,
        coarse: list[Tensor],
        sights: list[Sight],
        targets: Sequence[GroundingTarget],
        pictures: list[Tensor],
    ) -> list[Tensor]:
        assert self.refiner is not None
        text = self._text(sights) if self.uses_text else None
        sizes = [target.size for target in targets]
        return self.refiner(self._embeddings(pictures, targets), coarse, text, sizes)

    def _text(self, sights: list[Sight]) -> list[Tensor]:
        """The projected hidden states of each mask's tokens, ``[T, C]`` mask after mask."""
        found = []
        for sight in sights:
            projected = self.text_proj(self.layer_mean(sight.hidden))
            # In the order of their masks, those of none first: a GPU is waited for once.
            ordered = projected.index_select(0, sight.masks.argsort(stable=True))
            counts = torch.bincount(sight.masks.cpu() + 1, minlength=len(sight.maps) + 1)
            found += ordered.split(counts.tolist())[1:]
        return found

    def _embeddings(
        self, pictures: list[Tensor], targets: Sequence[GroundingTarget]
    ) -> list[dict[str, Tensor]]:
        """The refiner's picture embeddings; a picture of several samples is encoded once, so is one
        that comes again in the next call without training (one sentence after the other)."""
        assert self.refiner is not None
        keys = [target.picture_key for target in targets]
        may_stay = self.refiner.freeze_encoder and not torch.is_grad_enabled()
        if may_stay and self._recent.keys() >= set(keys):
            return [self._recent[key] for key in keys]
        fresh = {k: p for k, p in zip(keys, pictures, strict=True) if p.numel()}
        made = dict(zip(fresh, self.refiner.embed(list(fresh.values())), strict=True))
        if self.cache is not None:
            for key, tensors in made.items():
                self.cache.keep_image(key, tensors)
            for key in set(keys) - set(made):
                kept = self.cache.image(key)
                made[key] = {name: value.to(self.device) for name, value in kept.items()}
        self._recent = made if may_stay else {}
        return [made[key] for key in keys]

    def _selector_loss(self, sight: Sight, means: MaskMeans) -> Tensor:
        assert self.selector is not None
        logits = self.selector(self.layer_mean(sight.hidden))
        loss = self.selector.loss(logits, sight.masks >= 0)
        means.add("loss_selector", loss, len(sight.maps))
        return loss * len(sight.maps)


def _resized(masks: Tensor, size: torch.Size) -> Tensor:
    """Masks ``[M, H, W]`` at another size, nearest pixel (as F-LMM supervises its mask head)."""
    return F.interpolate(masks[None].float(), size=tuple(size))[0]
