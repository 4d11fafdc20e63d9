# ruff: noqa: F821 (a part of a config: its names are assigned by the other parts)
"""PART 2: every weight is trained, in float32 under bfloat16 compute.

bfloat16 weights would round small updates away.
"""

import torch
from transformers import AutoModelForCausalLM

from inlay.models import SupervisedFinetune

_base_ = ["tokenizer.py"]

lr = 2e-5

#######################################################################
#                      PART 2  Model & Tokenizer                      #
#######################################################################
model = dict(
    type=SupervisedFinetune,
    use_activation_checkpointing=True,
    llm=dict(
        type=AutoModelForCausalLM.from_pretrained,
        pretrained_model_name_or_path=pretrained_model_name_or_path,
        dtype=torch.float32,
    ),
)
