# ruff: noqa: F821 (a part of a config: its names are assigned by the other parts)
"""PART 2: LoRA on the language model of a bfloat16 model."""

import torch
from peft import LoraConfig
from transformers import AutoModelForImageTextToText

from inlay.models import VisionFinetune

_base_ = ["tokenizer_vlm.py"]

# adapters on the language model alone; () puts them on all three parts
freeze = ("vision", "projector")

#######################################################################
#             PART 2  Model & Tokenizer & Image Processor             #
#######################################################################
model = dict(
    type=VisionFinetune,
    freeze=freeze,
    use_activation_checkpointing=True,
    vlm=dict(
        type=AutoModelForImageTextToText.from_pretrained,
        pretrained_model_name_or_path=pretrained_model_name_or_path,
        dtype=torch.bfloat16,
    ),
    lora=dict(
        type=LoraConfig,
        r=64,
        lora_alpha=16,
        lora_dropout=0.1,
        bias="none",
        task_type="CAUSAL_LM",
        target_modules="all-linear",
    ),
)
