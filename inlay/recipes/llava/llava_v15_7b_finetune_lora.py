"""LLaVA-1.5-7B, stage 2: projector, and LoRA on the language model."""

_base_ = [
    "../_base/settings_llava.py",
    "../_base/model_llava_lora.py",
    "../_base/data_llava.py",
    "../_base/optim_llava.py",
    "../_base/runtime_images.py",
]

pretrained_pth = "./work_dirs/llava_v15_7b_pretrain"
