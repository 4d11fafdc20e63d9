"""LLaVA-1.5-7B: the published recipe of F-LMM; 32 x 32 = 1024 maps of 24 x 24."""

from inlay.data import PROMPT_TEMPLATE
from inlay.models import LLaVAAdapter

_base_ = [
    "../_base/settings_grounding_padded.py",
    "../_base/tokenizer_grounding_padded.py",
    "../_base/model_grounding.py",
    "../_base/data_grounding.py",
    "../_base/optim.py",
    "../_base/runtime_grounding.py",
]

pretrained_model_name_or_path = "llava-hf/llava-1.5-7b-hf"
adapter = LLaVAAdapter
prompt_template = PROMPT_TEMPLATE.vicuna
image_size = 336
patch_size = 14
min_size = 1
image_mean = (0.48145466, 0.4578275, 0.40821073)
image_std = (0.26862954, 0.26130258, 0.27577711)
