# ruff: noqa: F821 (a part of a config: its names are assigned by the other parts)
"""PART 2: projector and language model learn, in float32 under bfloat16 compute."""

import torch
from transformers import AutoModelForCausalLM

from inlay.models import LLaVAModel, load_visual_encoder

_base_ = ["tokenizer_llava.py"]

lr = 2e-5

#######################################################################
#             PART 2  Model & Tokenizer & Image Processor             #
#######################################################################
model = dict(
    type=LLaVAModel,
    freeze_llm=False,
    freeze_visual_encoder=True,
    pretrained_pth=pretrained_pth,
    tokenizer=tokenizer,
    llm=dict(
        type=AutoModelForCausalLM.from_pretrained,
        pretrained_model_name_or_path=llm_name_or_path,
        dtype=torch.float32,
    ),
    visual_encoder=dict(
        type=load_visual_encoder,
        pretrained_model_name_or_path=visual_encoder_name_or_path,
        dtype=torch.bfloat16,
    ),
)
