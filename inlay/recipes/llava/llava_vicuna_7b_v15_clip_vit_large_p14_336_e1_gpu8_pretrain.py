"""Vicuna-7B and CLIP-L/336, stage 1: the projector."""

_base_ = [
    "../_base/settings_llava.py",
    "../_base/model_llava_pretrain.py",
    "../_base/data_llava.py",
    "../_base/optim_llava.py",
    "../_base/runtime_images.py",
]
