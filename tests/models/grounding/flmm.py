"""F-LMM (arXiv 2406.05821) by the letter: eager attention, one sample and one mask at a time.

Nothing here uses what is tested. Weights are handed in, so that gradients can be compared, too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

MEAN = torch.tensor([123.675, 116.28, 103.53]).view(3, 1, 1)
STD = torch.tensor([58.395, 57.12, 57.375]).view(3, 1, 1)
Size = tuple[int, int]


@dataclass
class Case:
    """A picture, its caption, its masks.

    Attributes:
        ids: of prompt and caption. mask_ids: as many, the mask that each token names, or -1.
        prompt: tokens before the caption.
        masks: uint8 ``[M, H, W]``. pixels: inputs of the multimodal model.
    """

    image: Image.Image
    ids: list[int]
    mask_ids: list[int]
    prompt: int
    masks: Tensor
    pixels: dict[str, Tensor]


@dataclass
class Original:
    """The model of the paper.

    Attributes:
        lmm: of transformers, with eager attention.
        maps: from attention ``[C, K]`` to a picture's image tokens to ``[C', h, w]``.
        cut: from the mask head's logits ``[h, w]`` to those without padding.
        head: weights of the mask head by name. sam: a ``SamModel`` or None.
        others: ``text_proj.weight``, ``text_proj.bias``, ``text_layer_weights`` and, with a
            selector, ``selector.linear.weight`` and ``.bias``.
    """

    lmm: Any
    image_token: int
    maps: Callable[[Tensor, Size], Tensor]
    cut: Callable[[Tensor, Size], Tensor]
    head: dict[str, Tensor]
    sam: Any
    others: dict[str, Tensor]
    upsample_input: int
    merge: str = "mean"
    logits: list[Tensor] = field(default_factory=list)

    def __call__(self, cases: list[Case]) -> tuple[Tensor, dict[str, float]]:
        """Return the loss summed over masks, and what is logged."""
        total, sums, count = torch.zeros(()), {}, 0
        self.logits = []
        for case in cases:
            measures, loss = self.sample(case)
            count += len(case.masks)
            total = total + loss * len(case.masks)
            for name, value in measures.items():
                sums[name] = sums.get(name, 0.0) + value * len(case.masks)
        return total, {name: value / count for name, value in sums.items()}

    def sample(self, case: Case) -> tuple[dict[str, float], Tensor]:
        with torch.no_grad():
            out = self.lmm(
                input_ids=torch.tensor([case.ids]),
                **case.pixels,
                output_attentions=True,
                output_hidden_states=True,
            )
        states = torch.cat(out.hidden_states[-len(out.attentions) :])
        weights = self.others.get("text_layer_weights", torch.ones(len(states))).softmax(0)
        hidden = (weights[:, None, None] * states).sum(0)
        coarse = [self.coarse(out.attentions, case, m) for m in range(len(case.masks))]
        lowest = min(mask.min().item() for mask in coarse)
        found = {"": coarse}
        if self.sam is not None:
            found["sam_"] = [
                self.refined(case.image, mask, lowest, self.text(hidden, case, number))
                for number, mask in enumerate(coarse)
            ]
        self.logits.append(torch.stack(found.get("sam_", coarse)).detach())
        measures: dict[str, float] = {}
        loss = torch.zeros(())
        for prefix, masks in found.items():
            judged = [judge(p, nearest(g, p.shape)) for p, g in zip(masks, case.masks, strict=True)]
            mean = torch.stack([torch.stack(values) for values in judged]).mean(0)
            loss = loss + mean[0] + mean[1]
            names = ("loss_mask", "loss_dice", "accuracy", "aiou")
            measures |= {prefix + n: v.item() for n, v in zip(names, mean, strict=True)}
        if "selector.linear.weight" in self.others:
            keyword = self.keywords(hidden, case)
            measures["loss_selector"] = keyword.item()
            loss = loss + keyword
        return measures, loss

    def coarse(self, attentions: Any, case: Case, number: int) -> Tensor:
        columns = [i for i, token in enumerate(case.ids) if token == self.image_token]
        rows = [i for i, named in enumerate(case.mask_ids) if named == number]
        channels = []
        for layer in attentions:
            for head in layer[0]:
                looks = torch.stack([head[row, columns] for row in rows])
                channels.append(looks.mean(0) if self.merge == "mean" else looks.max(0).values)
        maps = self.maps(torch.stack(channels), case.image.size)
        return self.cut(unet(self.head, maps, self.upsample_input), case.image.size)

    def text(self, hidden: Tensor, case: Case, number: int) -> Tensor:
        rows = [i for i, named in enumerate(case.mask_ids) if named == number]
        return hidden[rows] @ self.others["text_proj.weight"].T + self.others["text_proj.bias"]

    def keywords(self, hidden: Tensor, case: Case) -> Tensor:
        """Binary cross entropy of the caption's tokens."""
        caption = range(case.prompt, len(case.ids))
        weight, bias = (self.others[f"selector.linear.{n}"] for n in ("weight", "bias"))
        odds = (hidden[list(caption)] @ weight[0] + bias).sigmoid()
        named = torch.tensor([float(case.mask_ids[n] >= 0) for n in caption])
        return -(named * odds.log() + (1 - named) * (1 - odds).log()).mean()

    def refined(self, image: Image.Image, logits: Tensor, lowest: float, text: Tensor) -> Tensor:
        """SAM with box, words and mask: one picture, one mask ``[h, w]``."""
        side: int = self.sam.config.vision_config.image_size
        width, height = image.size
        inner_w, inner_h = (int(px * side / max(image.size) + 0.5) for px in image.size)
        small = image.resize((inner_w, inner_h), Image.Resampling.BILINEAR)
        raw = torch.tensor(list(small.tobytes()), dtype=torch.float32)
        pixels = (raw.view(inner_h, inner_w, 3).permute(2, 0, 1) - MEAN) / STD
        square = F.pad(pixels, (0, side - inner_w, 0, side - inner_h))[None]
        with torch.no_grad():
            picture = self.sam.vision_encoder(square)[0]
        whole = torch.full((1, 1, side, side), min(-1.0, lowest))
        whole[..., :inner_h, :inner_w] = bilinear(logits[None, None], (inner_h, inner_w))
        prompt = bilinear(whole, (side // 4, side // 4))
        odds = bilinear(logits.detach().sigmoid()[None, None], (height, width))[0, 0]
        places = (odds > 0.5).nonzero()
        box = [0, 0, width, height]
        if len(places):
            (top, left), (bottom, right) = places.amin(0).tolist(), places.amax(0).tolist()
            box = [left, top, right + 1, bottom + 1]
        scale = [inner_w / width, inner_h / height] * 2
        boxes = torch.tensor([[[edge * s for edge, s in zip(box, scale, strict=True)]]])
        corners, dense = self.sam.prompt_encoder(None, None, boxes, prompt)
        low, _ = self.sam.mask_decoder(
            image_embeddings=picture,
            image_positional_embeddings=self.sam.get_image_wide_positional_embeddings(),
            sparse_prompt_embeddings=torch.cat([corners, text[None, None]], dim=2),
            dense_prompt_embeddings=dense,
            multimask_output=False,
        )
        cut = bilinear(low[0], (side, side))[..., :inner_h, :inner_w]
        return bilinear(cut, (height, width))[0, 0]


def bilinear(x: Tensor, size: Size) -> Tensor:
    return F.interpolate(x, size=size, mode="bilinear", align_corners=False)


def unet(w: dict[str, Tensor], maps: Tensor, side: int) -> Tensor:
    """The mask head's logits ``[h, w]`` for the maps ``[C, h, w]`` of one mask."""
    x = maps / maps.sum((1, 2), keepdim=True).clamp(min=1e-12)
    scale = max(1.0, side / max(maps.shape[1:]))
    x = F.interpolate(x[None], scale_factor=scale, mode="bilinear", align_corners=False)
    height, width = x.shape[2:]
    x = F.pad(x, (0, -width % 8, 0, -height % 8))

    def conv(x: Tensor, name: str, padding: int = 1) -> Tensor:
        x = F.conv2d(x, w[f"{name}.conv.weight"], padding=padding)
        return F.group_norm(x, 1, w[f"{name}.gn.weight"], w[f"{name}.gn.bias"]).relu()

    def twice(x: Tensor, name: str) -> Tensor:
        return conv(conv(x, f"{name}.convs.0"), f"{name}.convs.1")

    skips = [twice(x, "encoder.0.0")]
    for stage in (1, 2, 3):
        skips.append(twice(F.max_pool2d(skips[-1], 2), f"encoder.{stage}.1"))
    x = skips[3]
    for stage in (2, 1, 0):
        x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
        x = conv(x, f"decoder.{stage}.upsample.interp_upsample.1", padding=0)
        x = twice(torch.cat([skips[stage], x], dim=1), f"decoder.{stage}.conv_block")
    x = x[:, :, :height, :width]
    return F.conv2d(x, w["conv_seg.weight"], w["conv_seg.bias"])[0, 0]


def nearest(mask: Tensor, shape: Any) -> Tensor:
    rows, columns = (
        [i * old // new for i in range(new)] for old, new in zip(mask.shape, shape, strict=True)
    )
    return mask[rows][:, columns].float()


def judge(logits: Tensor, truth: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Cross entropy, Dice, accuracy and IoU of one mask."""
    p, g = logits.sigmoid(), truth
    entropy = -(g * F.logsigmoid(logits) + (1 - g) * F.logsigmoid(-logits)).mean()
    dice = 1 - (2 * (p * g).sum() + 1) / (p.sum() + g.sum() + 1)
    on = (p > 0.5).float()
    either = ((on + g) > 0).sum()
    iou = (on * g).sum() / either if either else torch.ones(())
    return entropy, dice, (on == g).float().mean(), iou
