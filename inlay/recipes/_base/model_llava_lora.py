# ruff: noqa: F821 (a part of a config: its names are assigned by the other parts)
"""PART 2: the projector learns, and LoRA on the language model."""

import torch
from peft import LoraConfig
from transformers import AutoModelForCausalLM

from inlay.models import LLaVAModel, load_visual_encoder

_base_ = ["tokenizer_llava.py"]

mm_projector_lr = 2e-5

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
    llm_lora=dict(
        type=LoraConfig,
        r=128,
        lora_alpha=256,
        lora_dropout=0.05,
        bias="none",
        task_type="CAUSAL_LM",
        target_modules="all-linear",
    ),
    visual_encoder=dict(
        type=load_visual_encoder,
        pretrained_model_name_or_path=visual_encoder_name_or_path,
        dtype=torch.bfloat16,
    ),
)
