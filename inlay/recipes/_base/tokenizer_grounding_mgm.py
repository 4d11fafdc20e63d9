# ruff: noqa: F821 (a part of a config: its names are assigned by the other parts)
"""Tokenizer and image processor of PART 2: MGM, whose config.json names the size of pictures."""

from transformers import AutoTokenizer

from inlay.data.vision.mgm import MGMImageProcessor

#######################################################################
#             PART 2  Model & Tokenizer & Image Processor             #
#######################################################################
tokenizer = dict(
    type=AutoTokenizer.from_pretrained,
    pretrained_model_name_or_path=pretrained_model_name_or_path,
    padding_side="right",
)

image_processor = dict(
    type=MGMImageProcessor,
    tokenizer=tokenizer,
    model=pretrained_model_name_or_path,
    vision_tower=vision_tower,
)
