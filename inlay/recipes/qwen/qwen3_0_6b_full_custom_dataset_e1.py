"""Qwen3-0.6B: full fine-tuning, your own conversations."""

_base_ = [
    "../_base/settings.py",
    "../_base/model_full.py",
    "../_base/data_custom.py",
    "../_base/optim.py",
    "../_base/runtime.py",
]

pretrained_model_name_or_path = "Qwen/Qwen3-0.6B"
