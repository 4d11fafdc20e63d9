# ruff: noqa: F821 (a part of a config: its names are assigned by the other parts)
"""PART 2: every weight learns, 2 x 2 patches are one token; too small to recompute activations."""

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from inlay.data import SquareImageProcessor
from inlay.models import LLaVAModel, load_visual_encoder

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
    pixel_shuffle_factor=2,
)

model = dict(
    type=LLaVAModel,
    tokenizer=tokenizer,
    projector="pixel_shuffle",
    pixel_shuffle_factor=2,
    visual_select_layer=None,  # the last layer, after the final norm
    pretrained_pth=pretrained_pth,
    use_activation_checkpointing=False,
    llm=dict(
        type=AutoModelForCausalLM.from_pretrained,
        pretrained_model_name_or_path=llm_name_or_path,
        dtype=torch.float32,
    ),
    visual_encoder=dict(
        type=load_visual_encoder,
        pretrained_model_name_or_path=visual_encoder_name_or_path,
        dtype=torch.float32,
    ),
)
