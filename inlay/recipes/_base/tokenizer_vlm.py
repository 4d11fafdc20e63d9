# ruff: noqa: F821 (a part of a config: its names are assigned by the other parts)
"""Tokenizer and image processor of PART 2."""

from transformers import AutoTokenizer

from inlay.data import HFImageProcessor

#######################################################################
#             PART 2  Model & Tokenizer & Image Processor             #
#######################################################################
tokenizer = dict(
    type=AutoTokenizer.from_pretrained,
    pretrained_model_name_or_path=pretrained_model_name_or_path,
    padding_side="right",
)

image_processor = dict(
    type=HFImageProcessor,
    path_or_processor=pretrained_model_name_or_path,
    tokenizer=tokenizer,
    min_pixels=min_pixels,
    max_pixels=max_pixels,
)
