"""InternLM2-Chat-1.8B in 4 bits and CLIP-L/336, stage 2: LoRA on both."""

from inlay.data import PROMPT_TEMPLATE

_base_ = [
    "../_base/settings_llava.py",
    "../_base/model_llava_qlora.py",
    "../_base/data_llava.py",
    "../_base/optim_llava.py",
    "../_base/runtime_images.py",
]

llm_name_or_path = "internlm/internlm2-chat-1_8b"
prompt_template = PROMPT_TEMPLATE.internlm2_chat
pretrained_pth = "./work_dirs/llava_internlm2_chat_1_8b_clip_vit_large_p14_336_e1_gpu8_pretrain"
