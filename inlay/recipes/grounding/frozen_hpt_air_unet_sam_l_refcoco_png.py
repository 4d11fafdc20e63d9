"""HPT Air (Yi-6B-Chat, CLIP): the published recipe of F-LMM; 32 x 32 = 1024 maps of 28 x 28."""

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

pretrained_model_name_or_path = "HyperGAI/HPT"
adapter = HPTAdapter
prompt_template = PROMPT_TEMPLATE.internlm2_chat
image_size = 392
patch_size = 14
min_size = 1
image_mean = (0.48145466, 0.4578275, 0.40821073)
image_std = (0.26862954, 0.26130258, 0.27577711)
