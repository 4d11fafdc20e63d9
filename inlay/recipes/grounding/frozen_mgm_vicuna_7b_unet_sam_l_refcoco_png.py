"""MGM-7B (Vicuna): the published recipe of F-LMM; 32 x 32 = 1024 maps of 24 x 24."""

from inlay.data import PROMPT_TEMPLATE
from inlay.models import MGMAdapter

_base_ = [
    "../_base/settings_grounding_mgm.py",
    "../_base/tokenizer_grounding_mgm.py",
    "../_base/model_grounding_mgm.py",
    "../_base/data_grounding.py",
    "../_base/optim.py",
    "../_base/runtime_grounding.py",
]

pretrained_model_name_or_path = "YanweiLi/MGM-7B"
adapter = MGMAdapter
prompt_template = PROMPT_TEMPLATE.vicuna
