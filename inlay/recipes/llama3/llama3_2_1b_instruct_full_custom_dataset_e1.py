"""Llama-3.2-1B-Instruct: full fine-tuning, your own conversations."""

_base_ = [
    "../_base/settings.py",
    "../_base/model_full.py",
    "../_base/data_custom.py",
    "../_base/optim.py",
    "../_base/runtime.py",
]

pretrained_model_name_or_path = "meta-llama/Llama-3.2-1B-Instruct"
