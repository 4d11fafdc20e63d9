# ruff: noqa: F821 (a part of a config: its names are assigned by the other parts)
"""PART 2 of HPT: as of every model, the vision encoder stretched to larger pictures."""

import torch

from inlay.models import FrozenGrounding

_base_ = ["heads_grounding.py"]

#######################################################################
#             PART 2  Model & Tokenizer & Image Processor             #
#######################################################################
model = dict(
    type=FrozenGrounding,
    lmm=dict(
        type=adapter.from_pretrained,
        pretrained_model_name_or_path=pretrained_model_name_or_path,
        image_size=image_size,
        dtype=torch.bfloat16,
    ),
    image_processor=image_processor,
    mask_head=unet,
    refiner=sam,
    merge=merge,
    cache=cache,
)
