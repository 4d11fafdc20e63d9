"""A frozen multimodal model that answers "where?": attention maps, mask head, refiner.

F-LMM (arXiv 2406.05821): the attention of a phrase's words to the image tokens, layer by layer and
head by head, becomes the channels of a picture that a U-Net turns into a mask; SAM, prompted with
that mask, its box and the words' hidden states, draws the mask's edge.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from inlay.core.errors import ConfigError
from inlay.core.io import fingerprint
from inlay.core.types import Box, GroundingTarget, ImageProcessor, StepOutput
from inlay.models.grounding.adapters.base import Adapter
from inlay.models.grounding.cache import FeatureCache
from inlay.models.grounding.capture import Grounded
from inlay.models.grounding.losses import mask_losses
from inlay.models.grounding.maps import assemble, cut_to_picture
from inlay.models.grounding.mask_head import UNetHead
from inlay.models.grounding.refiner import Refiner
from inlay.models.grounding.selector import KeywordSelector

MERGES = ("mean", "max")


@dataclass(slots=True)
class Sight:
    """What the frozen model shows of one sample.

    Attributes:
        maps: float32 ``[M, C, h, w]``, one picture of attention for each mask.
        canvas: what the maps cover, in px of the picture.
        hidden: ``[L, T, D]`` hidden states of its caption tokens, layer by layer.
        masks: int64 ``[T]``: which of the ``M`` masks each token names, or -1.
    """

    maps: Tensor
    canvas: Box
    hidden: Tensor
    masks: Tensor


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
            raise ConfigError(f"merge must be one of {', '.join(MERGES)}, found '{merge}'")
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

        Each sample's loss is its mean over masks (and pixels); weighted by its number of masks, as
        F-LMM has it.

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
            trained: False for a batch that only keeps the ranks in step.
        """
        sights = self._look(row, caption_rows, caption_masks, targets)
        coarse = self._coarse(sights, targets)
        metrics = _Means()
        loss = coarse[0].new_zeros((), dtype=torch.float32)
        for logits, mask in zip(coarse, masks, strict=True):
            loss = loss + metrics.add("", logits, _resized(mask, logits.shape[-2:]))
        if self.refiner is not None:
            for logits, mask in zip(
                self._refine(coarse, sights, targets, pictures), masks, strict=True
            ):
                loss = loss + metrics.add("sam_", logits, mask)
        if self.selector is not None:
            loss = loss + metrics.count * self._selector_loss(sights, metrics)
        return StepOutput(loss if trained else loss * 0.0, metrics.count, metrics.means())

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
        targets = [
            GroundingTarget(size, (), 0, 0, len(sight.maps), None, "picture", "")
            for sight in sights
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
                seen = [_grounded_only(sight) for sight in seen]
        made = iter(seen)
        found = []
        for target in targets:
            if target.document is None:
                assert self.cache is not None
                found.append(_unpacked(self.cache.text(target.text_key), self.device))
                continue
            sight = next(made)
            if self.cache is not None and self.cache.texts:
                self.cache.keep_text(target.text_key, _packed(sight))
            found.append(sight)
        return found

    def _coarse(self, sights: list[Sight], targets: Sequence[GroundingTarget]) -> list[Tensor]:
        """Logits ``[M, h, w]`` of the mask head, cut to the picture; one call for each shape."""
        by_shape: dict[tuple[int, ...], list[int]] = {}
        for number, sight in enumerate(sights):
            by_shape.setdefault(tuple(sight.maps.shape[1:]), []).append(number)
        found: dict[int, Tensor] = {}
        for numbers in by_shape.values():
            logits = self.mask_head(torch.cat([sights[n].maps for n in numbers]))
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
            found += [projected[sight.masks == m] for m in range(len(sight.maps))]
        return found

    def _embeddings(
        self, pictures: list[Tensor], targets: Sequence[GroundingTarget]
    ) -> list[dict[str, Tensor]]:
        """The refiner's picture embeddings; a picture of several samples is encoded once, so is one
        that comes again in the next call without training (one sentence after the other)."""
        assert self.refiner is not None
        keys = [target.picture_key for target in targets]
        if self._recent.keys() >= set(keys):
            return [self._recent[key] for key in keys]
        fresh = {k: p for k, p in zip(keys, pictures, strict=True) if p.numel()}
        made = (
            dict(zip(fresh, self.refiner.embed(list(fresh.values())), strict=True)) if fresh else {}
        )
        if self.cache is not None:
            for key, tensors in made.items():
                self.cache.keep_image(key, tensors)
            for key in dict.fromkeys(keys):
                if key not in made:
                    kept = self.cache.image(key)
                    made[key] = {name: value.to(self.device) for name, value in kept.items()}
        is_constant = self.refiner.freeze_encoder and not torch.is_grad_enabled()
        self._recent = made if is_constant else {}
        return [made[key] for key in keys]

    def _selector_loss(self, sights: list[Sight], metrics: _Means) -> Tensor:
        assert self.selector is not None
        logits = self.selector(self.layer_mean(torch.cat([s.hidden for s in sights], dim=1)))
        named = torch.cat([s.masks for s in sights]) >= 0
        loss = self.selector.loss(logits, named)
        metrics.note("loss_selector", loss)
        return loss


class _Means:
    """Means over masks of losses and measures, sample by sample."""

    def __init__(self) -> None:
        self.count = 0
        self._sums: dict[str, Tensor] = {}
        self._weights: dict[str, int] = {}
        self._others: dict[str, Tensor] = {}

    def add(self, prefix: str, logits: Tensor, masks: Tensor) -> Tensor:
        """Take a sample's masks in; return its loss times its number of masks."""
        found = mask_losses(logits, masks.to(logits.device))
        number = len(logits)
        values = {"loss_mask": found.mask, "loss_dice": found.dice}
        values |= {"accuracy": found.accuracy, "aiou": found.aiou}
        for name, value in values.items():
            key = prefix + name
            self._sums[key] = self._sums.get(key, 0.0) + value.detach().float() * number
            self._weights[key] = self._weights.get(key, 0) + number
        self.count += 0 if prefix else number
        return (found.mask + found.dice) * number

    def note(self, name: str, value: Tensor) -> None:
        self._others[name] = value.detach()

    def means(self) -> dict[str, Tensor]:
        return {k: v / max(self._weights[k], 1) for k, v in self._sums.items()} | self._others


def look(
    lmm: Adapter,
    row: dict[str, Any],
    caption_rows: Tensor,
    caption_masks: Tensor,
    targets: Sequence[GroundingTarget],
    merge: str = "mean",
) -> list[Sight]:
    """Run a frozen model on a row of documents, one for each target, and return what it shows.

    Args:
        caption_rows, caption_masks: as in ``FrozenGrounding.forward``.
    """
    starts = row["doc_starts"].tolist()
    documents = [target.document for target in targets]
    places = [
        row["image_positions"][
            (row["image_positions"] >= starts[d]) & (row["image_positions"] < starts[d + 1])
        ]
        for d in documents
        if d is not None
    ]
    columns = [
        own[t.first_token : t.first_token + num_tokens(t)]
        for own, t in zip(places, targets, strict=True)
    ]
    # The masks of cached samples are not in the row: number those that are from 0.
    firsts = [sum(t.num_masks for t in targets[:n]) for n in range(len(targets))]
    masks = caption_masks.clone()
    for first, target in zip(firsts, targets, strict=True):
        own = (caption_masks >= target.first_mask) & (
            caption_masks < target.first_mask + target.num_masks
        )
        masks[own] = caption_masks[own] - target.first_mask + first
    longest = max((len(c) for c in columns), default=0)
    table = caption_rows.new_full((sum(t.num_masks for t in targets), longest), -1)
    for first, target, own in zip(firsts, targets, columns, strict=True):
        table[first : first + target.num_masks, : len(own)] = own
    seen = lmm.look(
        row, Grounded(torch.zeros_like(caption_rows), caption_rows, masks, table, merge)
    )
    sights = []
    for first, target, own in zip(firsts, targets, columns, strict=True):
        maps, canvas = assemble(
            seen.maps[first : first + target.num_masks, :, : len(own)], target.views
        )
        if lmm.levels_by_layer:
            layers = maps.unflatten(1, (-1, lmm.num_map_layers, lmm.num_heads))
            maps = layers.transpose(1, 2).flatten(1, 3)
        assert target.document is not None
        start, stop = starts[target.document], starts[target.document + 1]
        mine = (caption_rows >= start) & (caption_rows < stop)
        numbers = masks[mine]
        numbers = torch.where(numbers >= 0, numbers - first, numbers)
        sights.append(Sight(maps, canvas, seen.hidden[:, mine], numbers))
    return sights


def num_tokens(target: GroundingTarget) -> int:
    """Return how many image tokens the views of a picture reach over."""
    return max(v.start + (v.height - 1) * v.stride + v.width for v in target.views)


def _resized(masks: Tensor, size: torch.Size) -> Tensor:
    """Masks ``[M, H, W]`` at another size, nearest pixel (as F-LMM supervises its mask head)."""
    return F.interpolate(masks[None].float(), size=tuple(size))[0]


def _grounded_only(sight: Sight) -> Sight:
    named = sight.masks >= 0
    return Sight(sight.maps, sight.canvas, sight.hidden[:, named], sight.masks[named])


def _packed(sight: Sight) -> dict[str, Tensor]:
    """A sight as the cache keeps it: maps in half precision beside their greatest values, since
    probabilities over thousands of tokens lie below what half precision resolves."""
    peak = sight.maps.amax(dim=(-2, -1), keepdim=True).clamp(min=1e-30)
    return {
        "maps": (sight.maps / peak).half(),
        "peak": peak,
        "canvas": torch.tensor(sight.canvas, dtype=torch.float64),
        "hidden": sight.hidden.to(torch.bfloat16),
        "masks": sight.masks,
    }


def _unpacked(kept: dict[str, Tensor], device: torch.device) -> Sight:
    tensors = {name: value.to(device) for name, value in kept.items() if name != "canvas"}
    left, top, right, bottom = kept["canvas"].tolist()
    maps = tensors["maps"].float() * tensors["peak"]
    return Sight(maps, (left, top, right, bottom), tensors["hidden"], tensors["masks"])
