"""HPT (HyperGAI): LLaVA's parts with larger pictures."""

from __future__ import annotations

import torch

from inlay.models.grounding.adapters.generic import GenericAdapter
from inlay.models.hpt import load_hpt


class HPTAdapter(GenericAdapter):
    """Grounds HPT Air and HPT 1.5 Air."""

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str,
        *,
        image_size: int | None = None,
        dtype: str | torch.dtype = "auto",
        bits: int | None = None,
        device: str | torch.device | None = None,
    ) -> HPTAdapter:
        """Open a published HPT.

        Args:
            pretrained_model_name_or_path: a folder or a hub name.
            image_size, dtype, bits, device: as ``load_hpt`` takes them.

        Raises:
            ModelError: it is no HPT, or incomplete.
        """
        model = load_hpt(
            pretrained_model_name_or_path,
            image_size=image_size,
            dtype=dtype,
            bits=bits,
            device=device,
        )
        return cls(model)
