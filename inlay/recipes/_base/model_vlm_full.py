# ruff: noqa: F821 (a part of a config: its names are assigned by the other parts)
"""PART 2: every weight is trained, in float32 under bfloat16 compute, but for the frozen parts."""

import torch
from transformers import AutoModelForImageTextToText

from inlay.models import VisionFinetune

_base_ = ["tokenizer_vlm.py"]

lr = 2e-5

#######################################################################
#             PART 2  Model & Tokenizer & Image Processor             #
#######################################################################
model = dict(
    type=VisionFinetune,
    freeze=freeze,
    use_activation_checkpointing=True,
    vlm=dict(
        type=AutoModelForImageTextToText.from_pretrained,
        pretrained_model_name_or_path=pretrained_model_name_or_path,
        dtype=torch.float32,
    ),
)
