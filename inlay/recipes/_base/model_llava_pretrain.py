# ruff: noqa: F821 (a part of a config: its names are assigned by the other parts)
"""PART 2: only the projector learns; language model and vision encoder are frozen."""

import torch
from transformers import AutoModelForCausalLM

from inlay.models import LLaVAModel, load_visual_encoder

_base_ = ["tokenizer_llava.py"]

data_path = data_root + "LLaVA-Pretrain/blip_laion_cc_sbu_558k.json"
image_folder = data_root + "LLaVA-Pretrain/images"
pad_image_to_square = False
batch_size = 32
lr = 1e-3

#######################################################################
#             PART 2  Model & Tokenizer & Image Processor             #
#######################################################################
model = dict(
    type=LLaVAModel,
    freeze_llm=True,
    freeze_visual_encoder=True,
    pretrained_pth=pretrained_pth,
    tokenizer=tokenizer,
    llm=dict(
        type=AutoModelForCausalLM.from_pretrained,
        pretrained_model_name_or_path=llm_name_or_path,
        dtype=torch.bfloat16,
    ),
    visual_encoder=dict(
        type=load_visual_encoder,
        pretrained_model_name_or_path=visual_encoder_name_or_path,
        dtype=torch.bfloat16,
    ),
)
