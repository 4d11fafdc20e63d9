"""HPT 1.5 Air (Llama 3, SigLIP): the published recipe of F-LMM; 32 x 32 = 1024 maps of 32 x 32."""

from inlay.data import PROMPT_TEMPLATE
from inlay.models import HPTAdapter

_base_ = [
    "../_base/settings_grounding_padded.py",
    "../_base/tokenizer_grounding_hpt.py",
    "../_base/model_grounding_hpt.py",
    "../_base/data_grounding.py",
    "../_base/optim.py",
    "../_base/runtime_grounding.py",
]

pretrained_model_name_or_path = "HyperGAI/HPT1_5-Air-Llama-3-8B-Instruct-multimodal"
adapter = HPTAdapter
prompt_template = PROMPT_TEMPLATE.llama3_chat
image_size = 448
patch_size = 14
min_size = 1
