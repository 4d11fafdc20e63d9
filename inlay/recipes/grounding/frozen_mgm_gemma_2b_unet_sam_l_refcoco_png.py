"""MGM-2B (Gemma): the published recipe of F-LMM; 18 x 8 = 144 maps of 24 x 24."""

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

pretrained_model_name_or_path = "YanweiLi/MGM-2B"
adapter = MGMAdapter
prompt_template = PROMPT_TEMPLATE.gemma
