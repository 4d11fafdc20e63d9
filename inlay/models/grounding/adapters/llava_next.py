"""LLaVA-Next (LLaVA-1.6): the whole picture coarsely, and its tiles finely."""

from __future__ import annotations

from inlay.models.grounding.adapters.generic import GenericAdapter
from inlay.models.grounding.adapters.llava import require_family
from inlay.models.llava import LLaVAModel
from inlay.models.vlm import VisionFinetune


class LLaVANextAdapter(GenericAdapter):
    """Grounds LLaVA-Next: ``llava-hf/llava-v1.6-vicuna-7b-hf``, ``llava-v1.6-mistral-7b-hf``.

    A picture is 24 x 24 tokens of the whole, pressed into a square, then ``h`` rows of ``w + 1``
    tokens of its tiles without their padding: the last one of each row is the learned newline,
    which shows nothing. Maps have two levels, so the mask head has twice the channels of layers x
    heads. How many tokens a picture has depends on its shape alone, as the model itself counts
    them (``LlavaNextImageProcessor``).

    Raises:
        ModelError: the model is of another family.
    """

    def __init__(self, model: VisionFinetune | LLaVAModel) -> None:
        require_family(model, type(self).__name__, "llava_next")
        super().__init__(model)
