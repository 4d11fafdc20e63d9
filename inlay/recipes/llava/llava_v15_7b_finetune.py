"""LLaVA-1.5-7B, stage 2: projector and language model (665k conversations)."""

_base_ = [
    "../_base/settings_llava.py",
    "../_base/model_llava_full.py",
    "../_base/data_llava.py",
    "../_base/optim_llava.py",
    "../_base/runtime_images.py",
]

pretrained_pth = "./work_dirs/llava_v15_7b_pretrain"
