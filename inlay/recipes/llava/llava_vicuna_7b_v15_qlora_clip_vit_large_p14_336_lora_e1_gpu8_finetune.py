"""Vicuna-7B in 4 bits and CLIP-L/336, stage 2: LoRA on both."""

_base_ = [
    "../_base/settings_llava.py",
    "../_base/model_llava_qlora.py",
    "../_base/data_llava.py",
    "../_base/optim_llava.py",
    "../_base/runtime_images.py",
]

pretrained_pth = "./work_dirs/llava_vicuna_7b_v15_clip_vit_large_p14_336_e1_gpu8_pretrain"
