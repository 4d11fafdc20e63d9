# ruff: noqa: F821 (a part of a config: its names are assigned by the other parts)
"""PART 2: the tiny model stays as it is; mask head and tiny SAM learn."""

import torch
from transformers import AutoTokenizer

from inlay.data import SquareImageProcessor
from inlay.models import FrozenGrounding, GenericAdapter, SamRefiner, UNetHead

#######################################################################
#             PART 2  Model & Tokenizer & Image Processor             #
#######################################################################
tokenizer = dict(
    type=AutoTokenizer.from_pretrained,
    pretrained_model_name_or_path=pretrained_model_name_or_path,
    padding_side="right",
)

image_processor = dict(
    type=SquareImageProcessor,
    tokenizer=tokenizer,
    visual_encoder=pretrained_model_name_or_path + "/visual_encoder",
    pixel_shuffle_factor=2,
)

sam = None
if sam_checkpoint:
    sam = dict(
        type=SamRefiner.from_pretrained,
        checkpoint=sam_checkpoint,
        freeze_encoder=freeze_sam_encoder,
    )

model = dict(
    type=FrozenGrounding,
    lmm=dict(
        type=GenericAdapter.from_pretrained,
        pretrained_model_name_or_path=pretrained_model_name_or_path,
        dtype=torch.float32,
    ),
    image_processor=image_processor,
    mask_head=dict(type=UNetHead, base_channels=base_channels, upsample_input=upsample_input),
    refiner=sam,
    merge=merge,
)
