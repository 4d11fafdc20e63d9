# ruff: noqa: F821 (a part of a config: its names are assigned by the other parts)
"""Tokenizer and image processor of PART 2."""

from transformers import AutoTokenizer

from inlay.data import SquareImageProcessor

#######################################################################
#             PART 2  Model & Tokenizer & Image Processor             #
#######################################################################
tokenizer = dict(
    type=AutoTokenizer.from_pretrained,
    pretrained_model_name_or_path=llm_name_or_path,
    padding_side="right",
)

image_processor = dict(
    type=SquareImageProcessor,
    tokenizer=tokenizer,
    visual_encoder=visual_encoder_name_or_path,
    pad_to_square=pad_image_to_square,
)
