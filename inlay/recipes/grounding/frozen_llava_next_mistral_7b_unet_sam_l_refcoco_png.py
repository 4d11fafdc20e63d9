"""LLaVA-Next-Mistral-7B: the published recipe of F-LMM; 2 x 32 x 32 = 2048 maps."""

from inlay.data import PROMPT_TEMPLATE
from inlay.models import LLaVANextAdapter

_base_ = [
    "../_base/settings_grounding_hf.py",
    "../_base/tokenizer_vlm.py",
    "../_base/model_grounding.py",
    "../_base/data_grounding.py",
    "../_base/optim.py",
    "../_base/runtime_grounding.py",
]

pretrained_model_name_or_path = "llava-hf/llava-v1.6-mistral-7b-hf"
adapter = LLaVANextAdapter
prompt_template = PROMPT_TEMPLATE.mistral
