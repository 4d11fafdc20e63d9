"""F-LMM's training step (arXiv 2406.05821) as its public code takes it, for ``grounding.py``.

Written from the description of what it does, not from its code: whole attention matrices of every
layer (``output_attentions=True``) under eager attention, the language model's logits computed and
thrown away, the image encoder of SAM run again for every sample, one mask after the other through
SAM's decoder, true masks shrunk to the size that the language model's encoder saw. It runs on
current transformers and on the very weights of the model that it is compared with; SAM is that of
transformers, whose image encoder takes the time of the original's (a global layer of ViT-L 2.3 and
2.4 CPU seconds, a windowed one 0.78 both, in bfloat16).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

Losses = dict[str, Tensor]
Size = tuple[int, int]


class Clock(Protocol):
    def part(self, name: str) -> AbstractContextManager[None]:
        """Add what the block takes to a part of the step."""


class Recreation:
    """The original's way from a sample to its losses.

    Args:
        model: a ``FrozenGrounding`` with a ``SamRefiner``; its weights are used, its code is not.
        vlm: transformers' model inside of it, of the LLaVA or the LLaVA-Next family.
        clock: takes the time of the parts.
    """

    def __init__(self, model: Any, vlm: Any, clock: Clock) -> None:
        self.model, self.vlm, self.clock = model, vlm, clock
        self.sam = model.refiner.sam

    def losses(self, sample: Any) -> tuple[Tensor, Losses]:
        """Return the loss of one sample and what is logged of it.

        Args:
            sample: a ``GroundedSample`` with pixels and picture.
        """
        attentions, hidden = self._language_model(sample)
        with self.clock.part("maps"):
            maps, text = self._maps(sample, attentions, hidden)
            del attentions, hidden
        with self.clock.part("mask head"):
            coarse = self._cut(self.model.mask_head(maps), sample)
        fine = self._refine(coarse, text, sample)
        with self.clock.part("losses"):
            masks = self._shrunk(torch.from_numpy(sample.masks), sample)
            values: Losses = {}
            for prefix, logits in (("", coarse), ("sam_", fine)):
                true = F.interpolate(masks[None].float(), size=logits.shape[-2:])[0].to(logits)
                values |= {prefix + k: v for k, v in _measures(logits, true).items()}
        return sum(v for k, v in values.items() if "loss" in k), values

    def _language_model(self, sample: Any) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        pixels = {k: torch.from_numpy(v) for k, v in sample.pixels.items()}
        images = {"pixel_values": pixels["pixel_values"].to(self.vlm.dtype)}
        if self.two_levels:
            images = {
                "pixel_values": images["pixel_values"][None],
                "image_sizes": pixels["image_sizes"],
            }
        ids = torch.from_numpy(sample.tokens.ids).long()[None]
        with self.clock.part("language model"), torch.no_grad(), _eager(self.vlm):
            out = self.vlm(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                output_attentions=True,
                output_hidden_states=True,
                use_cache=False,
                **images,
            )
        return out.attentions, out.hidden_states[-len(out.attentions) :]

    @property
    def two_levels(self) -> bool:
        return self.vlm.config.model_type == "llava_next"

    def _maps(
        self, sample: Any, attentions: tuple[Tensor, ...], hidden: tuple[Tensor, ...]
    ) -> tuple[Tensor, list[Tensor]]:
        """Maps ``[M, C, h, w]``, and the projected words of each mask."""
        is_image = torch.from_numpy(sample.tokens.ids == self.vlm.config.image_token_id)
        named = torch.full((len(is_image),), -1)
        named[sample.tokens.caption_rows] = torch.from_numpy(sample.tokens.mask_ids)
        to_image = [layer[0, ..., is_image] for layer in attentions]
        weights = torch.softmax(self.model.text_layer_weights, 0)
        states = (torch.stack([layer[0] for layer in hidden]) * weights.view(-1, 1, 1)).sum(0)
        side = sample.views[0].width
        merged, text = [], []
        for mask in range(len(sample.masks)):
            rows = torch.cat([layer[:, named == mask].mean(1) for layer in to_image]).float()
            levels = [rows[:, : side * side].unflatten(1, (side, side))]
            if self.two_levels:
                fine = sample.views[-1]
                behind = rows[:, side * side :].unflatten(1, (fine.height, fine.width + 1))
                shape = (fine.height, fine.width)
                coarse = F.interpolate(levels[0][None], size=shape, mode="bilinear")[0]
                levels = [coarse, behind[..., :-1]]
            merged.append(torch.cat(levels))
            text.append(self.model.text_proj(states[named == mask]))
        return torch.stack(merged), text

    def _seen_size(self, sample: Any) -> Size:
        """Height and width of the picture as the language model's encoder saw it, in px."""
        width, height = sample.size
        side = self.vlm.config.vision_config.image_size * (2 if self.two_levels else 1)
        return int(height / max(width, height) * side), int(width / max(width, height) * side)

    def _shrunk(self, masks: Tensor, sample: Any) -> Tensor:
        return F.interpolate(masks[None].float(), size=self._seen_size(sample))[0]

    def _cut(self, logits: Tensor, sample: Any) -> Tensor:
        """The part of masks over a padded square that shows the picture."""
        if self.two_levels:
            return logits
        side = self.vlm.config.vision_config.image_size
        cuts = []
        for px, cells in zip(self._seen_size(sample), logits.shape[-2:], strict=True):
            first = int((side - px) // 2 * cells / side)
            cuts.append(slice(first, first + int(px * cells / side + 0.5)))
        return logits[:, cuts[0], cuts[1]].contiguous()

    def _refine(self, coarse: Tensor, text: list[Tensor], sample: Any) -> Tensor:
        side = self.sam.prompt_encoder.input_image_size
        width, height = sample.size
        with self.clock.part("SAM encoder"), torch.no_grad():
            picture = torch.from_numpy(sample.picture)
            inner = picture.shape[-2:]
            square = (picture - self.model.refiner.pixel_mean) / self.model.refiner.pixel_std
            square = F.pad(square, (0, side - inner[1], 0, side - inner[0]))
            picture_features = self.sam.vision_encoder(square[None]).last_hidden_state
        with self.clock.part("SAM decoder"):
            picture_features.requires_grad_()
            prompts = F.interpolate(coarse[:, None].float(), size=inner, mode="bilinear")
            least = min(-1.0, coarse.min().item())
            prompts = F.pad(prompts, (0, side - inner[1], 0, side - inner[0]), value=least)
            cells = 4 * self.sam.prompt_encoder.image_embedding_size[0]
            prompts = F.interpolate(prompts, size=(cells, cells), mode="bilinear")
            odds = coarse.detach().float().sigmoid()[None]
            found = F.interpolate(odds, size=(height, width), mode="bilinear")[0] > 0.5
            scale = np.array([inner[1] / width, inner[0] / height] * 2)
            fine = []
            for prompt, mask, words in zip(prompts, found, text, strict=True):
                box = torch.from_numpy(_box(mask) * scale).float()
                sparse, dense = self.sam.prompt_encoder(None, None, box[None, None], prompt[None])
                low_res, _ = self.sam.mask_decoder(
                    image_embeddings=picture_features,
                    image_positional_embeddings=self.sam.get_image_wide_positional_embeddings(),
                    sparse_prompt_embeddings=torch.cat([sparse, words[None, None]], dim=2),
                    dense_prompt_embeddings=dense,
                    multimask_output=False,
                )
                full = F.interpolate(low_res[:, 0].float(), size=(side, side), mode="bilinear")
                full = full[..., : inner[0], : inner[1]]
                fine.append(F.interpolate(full, size=(height, width), mode="bilinear")[0, 0])
            return torch.stack(fine)


def _box(mask: Tensor) -> np.ndarray:
    rows, columns = np.where(mask.numpy())
    if not len(rows):
        return np.array([0, 0, mask.shape[1], mask.shape[0]])
    return np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])


def _measures(logits: Tensor, true: Tensor) -> Losses:
    x, g = logits.flatten(1), true.flatten(1)
    p = x.sigmoid()
    shared = (p * g).sum(1)
    found = (x.detach().sigmoid() > 0.5).to(g)
    both = (found * g).sum(1)
    either = (found + g - found * g).sum(1)
    return {
        "loss_mask": F.binary_cross_entropy_with_logits(x.flatten(), g.flatten()),
        "loss_dice": (1 - (2 * shared + 1) / (p.sum(1) + g.sum(1) + 1)).mean(),
        "accuracy": (found == g).to(g).mean(),
        "aiou": (both / (either + 1e-12)).mean(),
    }


@contextmanager
def _eager(vlm: Any) -> Iterator[None]:
    text, vision = vlm.config.text_config, vlm.config.vision_config
    before = text._attn_implementation, vision._attn_implementation
    vlm.set_attn_implementation("eager")
    try:
        yield
    finally:
        vlm.set_attn_implementation({"text_config": before[0], "vision_config": before[1]})
