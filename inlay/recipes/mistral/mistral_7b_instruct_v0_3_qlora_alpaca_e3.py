"""Mistral-7B-Instruct-v0.3: QLoRA, alpaca."""

_base_ = [
    "../_base/settings.py",
    "../_base/model_qlora.py",
    "../_base/data_alpaca.py",
    "../_base/optim.py",
    "../_base/runtime.py",
]

pretrained_model_name_or_path = "mistralai/Mistral-7B-Instruct-v0.3"
