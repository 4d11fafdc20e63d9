"""Qwen2.5-0.5B-Instruct: full fine-tuning, alpaca."""

_base_ = [
    "../_base/settings.py",
    "../_base/model_full.py",
    "../_base/data_alpaca.py",
    "../_base/optim.py",
    "../_base/runtime.py",
]

pretrained_model_name_or_path = "Qwen/Qwen2.5-0.5B-Instruct"
