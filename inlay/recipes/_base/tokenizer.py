# ruff: noqa: F821 (a part of a config: its names are assigned by the other parts)
"""The tokenizer of PART 2."""

from transformers import AutoTokenizer

#######################################################################
#                      PART 2  Model & Tokenizer                      #
#######################################################################
tokenizer = dict(
    type=AutoTokenizer.from_pretrained,
    pretrained_model_name_or_path=pretrained_model_name_or_path,
    padding_side="right",
)
