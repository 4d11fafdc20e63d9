"""MGM (Mini-Gemini), whose model code is our own."""

from __future__ import annotations

import torch

from inlay.models.grounding.adapters.generic import GenericAdapter
from inlay.models.mgm.load import CLIP, OPENCLIP, load_mgm


class MGMAdapter(GenericAdapter):
    """Grounds MGM-2B, MGM-7B and MGM-7B-HD; pictures come from ``MGMImageProcessor``."""

    levels_by_layer = True

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str,
        *,
        vision_tower: str = CLIP,
        vision_tower_aux: str = OPENCLIP,
        dtype: str | torch.dtype = "auto",
        bits: int | None = None,
        device: str | torch.device | None = None,
    ) -> MGMAdapter:
        """Open a published MGM.

        Args:
            pretrained_model_name_or_path: a folder or a hub name.
            vision_tower, vision_tower_aux, dtype, bits, device: as ``load_mgm`` takes them.

        Raises:
            ModelError: it is no MGM, or incomplete.
        """
        model = load_mgm(
            pretrained_model_name_or_path,
            vision_tower=vision_tower,
            vision_tower_aux=vision_tower_aux,
            dtype=dtype,
            bits=bits,
            device=device,
        )
        return cls(model)
