# ruff: noqa: F821 (a part of a config: its names are assigned by the other parts)
"""Tokenizer and image processor of PART 2: HPT, whose tokenizer lies in llm/."""

from transformers import AutoTokenizer

from inlay.data import PaddedImageProcessor

#######################################################################
#             PART 2  Model & Tokenizer & Image Processor             #
#######################################################################
tokenizer = dict(
    type=AutoTokenizer.from_pretrained,
    pretrained_model_name_or_path=pretrained_model_name_or_path,
    subfolder="llm",
    padding_side="right",
)

image_processor = dict(
    type=PaddedImageProcessor,
    tokenizer=tokenizer,
    image_size=image_size,
    patch_size=patch_size,
    min_size=min_size,
    image_mean=image_mean,
    image_std=image_std,
    image_token=image_token,
    high_resolution=high_resolution,
    high_res_mean=high_res_mean,
    high_res_std=high_res_std,
)
