"""InternLM2-Chat-1.8B and CLIP-L/336, stage 1: the projector."""

from inlay.data import PROMPT_TEMPLATE

_base_ = [
    "../_base/settings_llava.py",
    "../_base/model_llava_pretrain.py",
    "../_base/data_llava.py",
    "../_base/optim_llava.py",
    "../_base/runtime_images.py",
]

llm_name_or_path = "internlm/internlm2-chat-1_8b"
prompt_template = PROMPT_TEMPLATE.internlm2_chat
