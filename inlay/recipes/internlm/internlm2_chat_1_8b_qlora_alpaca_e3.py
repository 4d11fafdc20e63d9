"""InternLM2-Chat-1.8B: QLoRA, alpaca."""

from inlay.data import PROMPT_TEMPLATE

_base_ = [
    "../_base/settings.py",
    "../_base/model_qlora.py",
    "../_base/data_alpaca.py",
    "../_base/optim.py",
    "../_base/runtime.py",
]

pretrained_model_name_or_path = "internlm/internlm2-chat-1_8b"
prompt_template = PROMPT_TEMPLATE.internlm2_chat
