"""DeepSeek-VL (arXiv 2403.05525): 24 x 24 image tokens, from one vision encoder or from two."""

from __future__ import annotations

import torch

from inlay.models.deepseek_names import is_published, load_published
from inlay.models.grounding.adapters.generic import GenericAdapter
from inlay.models.grounding.adapters.llava import require_family
from inlay.models.llava import LLaVAModel
from inlay.models.lm import default_device, keep_weights_as_they_are
from inlay.models.vlm import VisionFinetune


class DeepSeekVLAdapter(GenericAdapter):
    """Grounds DeepSeek-VL 1.3B (SigLIP at 384 px) and 7B (SigLIP, and SAM at 1024 px).

    Pictures are padded to squares (``PaddedImageProcessor``, which makes the 7B model's small
    view of its large one), so maps are 24 x 24 whatever the picture's shape.

    Raises:
        ModelError: the model is of another family.
    """

    def __init__(self, model: VisionFinetune | LLaVAModel) -> None:
        require_family(model, type(self).__name__, "deepseek_vl", "deepseek_vl_hybrid")
        super().__init__(model)

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str,
        *,
        dtype: str | torch.dtype = "auto",
        bits: int | None = None,
        device: str | torch.device | None = None,
    ) -> DeepSeekVLAdapter:
        """Open a model in the authors' layout, or in that of transformers.

        Args:
            pretrained_model_name_or_path: a hub name (``deepseek-ai/deepseek-vl-1.3b-chat`` is of
                the authors, ``deepseek-community/deepseek-vl-1.3b-chat`` of transformers), or a
                folder.
            dtype, bits, device: as ``load_vlm`` takes them.

        Raises:
            ModelError: it is neither, or incomplete.
        """
        path = pretrained_model_name_or_path
        if not is_published(path):
            found = super().from_pretrained(path, dtype=dtype, bits=bits, device=device)
            assert isinstance(found, DeepSeekVLAdapter)
            return found
        vlm = load_published(path, dtype=dtype, bits=bits)
        keep_weights_as_they_are(vlm)
        model = VisionFinetune(vlm, use_activation_checkpointing=False)
        return cls(model if bits else model.to(device or default_device()))
