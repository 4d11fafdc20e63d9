"""How MGM sees: CLIP's tokens ask the high-resolution tower for the details of their patch."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from inlay.models.mgm.convnext import ConvNeXtTower
from inlay.models.vision import features


class MGMVision(nn.Module):
    """Two towers and the patch info mining between them (arXiv 2403.18814, section 3.2).

    A picture comes in once, at the size of the fine tower; the coarse tower sees it shrunk. With
    ``image_grid`` above 1 (the HD models) the coarse tower sees ``image_grid`` x ``image_grid``
    crops, and with ``image_global`` the whole picture as well.

    Args:
        vision_tower: CLIP.
        vision_tower_aux: ConvNeXt.
        image_grid: crops along each side.
        image_global: whether tokens of the whole picture come before those of the crops.
        select_layer: which hidden state of CLIP is read, see ``vision.features``.
    """

    def __init__(
        self,
        *,
        vision_tower: Any,
        vision_tower_aux: ConvNeXtTower,
        image_grid: int = 1,
        image_global: bool = False,
        select_layer: int = -2,
    ) -> None:
        super().__init__()
        self.vision_tower, self.vision_tower_aux = vision_tower, vision_tower_aux
        self.image_grid, self.image_global = image_grid, image_global
        self.select_layer = select_layer
        coarse, fine = vision_tower.config.hidden_size, vision_tower_aux.hidden_size
        self.vlm_uni_query_projector = _projector(coarse, coarse)
        self.vlm_uni_aux_projector = _projector(fine, coarse)
        self.vlm_uni_val_projector = _projector(fine, coarse)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Encode pictures.

        Args:
            pixel_values: float32 ``[B, 3, S, S]``, normalised, at the fine tower's size (768 px;
                1536 px for the HD models).

        Returns:
            ``[B, T, width of CLIP]``: 576 tokens, row by row; of an HD model 576 of the whole, then
            576 of each crop, crops row by row.
        """
        grid, side = self.image_grid, self.vision_tower.config.image_size
        fine = self.vision_tower_aux(pixel_values)
        coarse = _resized(pixel_values, grid * side)
        if grid == 1:
            return self._mine(coarse, fine)
        crops = self._mine(_crops(coarse, grid), _crops(fine, grid))
        tokens = crops.unflatten(0, (len(pixel_values), -1)).flatten(1, 2)
        if self.image_global:
            whole = self._mine(_resized(coarse, side), _resized(fine, fine.shape[-1] // grid))
            tokens = torch.cat([whole, tokens], dim=1)
        return tokens

    def _mine(self, pixels: Tensor, fine: Tensor) -> Tensor:
        """CLIP's tokens ``[B, T, width]``, each plus what it finds in its own patch of ``fine``.

        Each token attends, with one head, to the pixels of ``fine`` ``[B, C, h, w]`` that lie
        under its patch, and to nothing else.
        """
        tokens = features(self.vision_tower, pixels, self.select_layer)
        cells = _cells(fine, round(tokens.shape[1] ** 0.5))
        query = self.vlm_uni_query_projector(tokens)[:, :, None]
        key, value = self.vlm_uni_aux_projector(cells), self.vlm_uni_val_projector(cells)
        return tokens + F.scaled_dot_product_attention(query, key, value)[:, :, 0]


def _projector(width_in: int, width_out: int) -> nn.Sequential:
    return nn.Sequential(nn.LayerNorm(width_in), nn.Linear(width_in, width_out))


def _resized(x: Tensor, side: int) -> Tensor:
    """``[B, C, side, side]``, bilinear without antialiasing, computed in float32."""
    return F.interpolate(x.float(), size=(side, side), mode="bilinear").to(x.dtype)


def _crops(x: Tensor, grid: int) -> Tensor:
    """``[B, C, H, W]`` as ``[B * grid * grid, C, H / grid, W / grid]``, row by row."""
    cut = x.unflatten(3, (grid, -1)).unflatten(2, (grid, -1))  # [B, C, grid, h, grid, w]
    return cut.permute(0, 2, 4, 1, 3, 5).flatten(0, 2)


def _cells(x: Tensor, side: int) -> Tensor:
    """``[B, C, H, W]`` as ``[B, side * side, pixels of a cell, C]``, row by row."""
    cut = x.unflatten(3, (side, -1)).unflatten(2, (side, -1))  # [B, C, side, h, side, w]
    return cut.permute(0, 2, 4, 3, 5, 1).flatten(3, 4).flatten(1, 2)
