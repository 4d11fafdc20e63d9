"""The high-resolution tower of MGM: OpenCLIP's ConvNeXt without its head (arXiv 2201.03545)."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

EPS = 1e-6


class LayerNorm2d(nn.LayerNorm):
    """Layer norm over the channels of ``[B, C, H, W]``."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Block(nn.Module):
    """A depthwise 7 x 7 convolution and an MLP at each pixel, scaled by ``gamma``, plus input."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(width))
        self.conv_dw = nn.Conv2d(width, width, 7, padding=3, groups=width)
        self.norm = nn.LayerNorm(width, eps=EPS)
        layers = OrderedDict(
            fc1=nn.Linear(width, 4 * width), act=nn.GELU(), fc2=nn.Linear(4 * width, width)
        )
        self.mlp = nn.Sequential(layers)

    def forward(self, x: Tensor) -> Tensor:
        pixels = self.norm(self.conv_dw(x).permute(0, 2, 3, 1))
        return x + (self.gamma * self.mlp(pixels)).permute(0, 3, 1, 2)


class Stage(nn.Module):
    """Halves the picture, all stages but the first, then ``depth`` blocks."""

    def __init__(self, width_before: int | None, width: int, depth: int) -> None:
        super().__init__()
        self.downsample = (
            nn.Identity()
            if width_before is None
            else nn.Sequential(LayerNorm2d(width_before, EPS), nn.Conv2d(width_before, width, 2, 2))
        )
        self.blocks = nn.Sequential(*[Block(width) for _ in range(depth)])

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(self.downsample(x))


class ConvNeXtTower(nn.Module):
    """ConvNeXt whose stages are all read off, at the size of the first one.

    Weights carry the names of MGM's checkpoints (``vision_stem``, ``vision_stages``), and within
    them those of timm and OpenCLIP.

    Args:
        widths: channels of each stage; ConvNeXt-L has 192, 384, 768, 1536.
        depths: blocks of each stage; ConvNeXt-L has 3, 3, 27, 3.
    """

    def __init__(self, widths: Sequence[int], depths: Sequence[int]) -> None:
        super().__init__()
        self.hidden_size = sum(widths)
        self.vision_stem = nn.Sequential(nn.Conv2d(3, widths[0], 4, 4), LayerNorm2d(widths[0], EPS))
        before = [None, *widths[:-1]]
        self.vision_stages = nn.Sequential(*map(Stage, before, widths, depths))

    @classmethod
    def like(cls, tensors: Mapping[str, Tensor]) -> ConvNeXtTower:
        """Return a tower of the sizes that its weights tell (without copying them).

        Raises:
            KeyError: a stage without its first block.
        """
        blocks = [
            (int(found[1]), int(found[2]))
            for name in tensors
            if (found := re.match(r"vision_stages\.(\d+)\.blocks\.(\d+)\.", name))
        ]
        stages = range(max((stage for stage, _ in blocks), default=-1) + 1)
        return cls(
            [len(tensors[f"vision_stages.{i}.blocks.0.gamma"]) for i in stages],
            [1 + max(block for stage, block in blocks if stage == i) for i in stages],
        )

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Encode pictures.

        Args:
            pixel_values: float ``[B, 3, H, W]``, normalised; H and W multiples of 32.

        Returns:
            ``[B, hidden_size, H / 4, W / 4]``: the stages' channels one after the other, the later
            ones resized (bilinear).
        """
        x = self.vision_stem(pixel_values.to(next(self.parameters()).dtype))
        stages = []
        for stage in self.vision_stages:
            x = stage(x)
            stages.append(x)
        size = stages[0].shape[-2:]
        return torch.cat([stages[0], *(_resized(x, size) for x in stages[1:])], dim=1)


def _resized(x: Tensor, size: torch.Size) -> Tensor:
    """Bilinear, computed in float32."""
    return F.interpolate(x.float(), size=size, mode="bilinear").to(x.dtype)
