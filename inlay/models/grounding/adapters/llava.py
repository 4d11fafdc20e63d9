"""LLaVA-1.5 (arXiv 2310.03744): one view of 336 px, 24 x 24 image tokens."""

from __future__ import annotations

from inlay.core.errors import ModelError
from inlay.models.grounding.adapters.generic import GenericAdapter
from inlay.models.llava import LLaVAModel
from inlay.models.vlm import VisionFinetune


class LLaVAAdapter(GenericAdapter):
    """Grounds LLaVA-1.5: ``llava-hf/llava-1.5-7b-hf``, or LLaVA parts that Inlay has trained.

    F-LMM does not show it pictures as LLaVA's own processor does, which cuts the centre out: it
    resizes the longest side to the encoder's 336 px and pads the rest (``PaddedImageProcessor``).
    It reads the shape of the maps off the padded picture, but that is always the same square:
    24 x 24 tokens, and the encoder's position embeddings stay as they are.

    Raises:
        ModelError: the model is of another family.
    """

    def __init__(self, model: VisionFinetune | LLaVAModel) -> None:
        if not isinstance(model, LLaVAModel):
            require_family(model, type(self).__name__, "llava")
        super().__init__(model)


def require_family(model: VisionFinetune | LLaVAModel, adapter: str, *families: str) -> None:
    """Make sure that a model is of one of the ``families`` that an adapter is written for.

    Raises:
        ModelError: it is not.
    """
    found = "LLaVA parts" if isinstance(model, LLaVAModel) else model.base.config.model_type
    if found not in families:
        raise ModelError(
            f"{adapter} is for {' and '.join(families)} models, this one is {found}. "
            "GenericAdapter takes any model whose processor says where its image tokens are."
        )
