# ruff: noqa: F821 (a part of a config: its names are assigned by the other parts)
"""PART 2: mask head, SAM's prompt encoder and mask decoder learn; the model itself is frozen."""

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
        dtype=torch.bfloat16,
    ),
    image_processor=image_processor,
    mask_head=unet,
    refiner=sam,
    merge=merge,
    cache=cache,
)
