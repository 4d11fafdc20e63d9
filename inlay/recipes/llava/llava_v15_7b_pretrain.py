"""LLaVA-1.5-7B, stage 1: the projector learns to speak (558k captions)."""

_base_ = [
    "../_base/settings_llava.py",
    "../_base/model_llava_pretrain.py",
    "../_base/data_llava.py",
    "../_base/optim_llava.py",
    "../_base/runtime_images.py",
]
