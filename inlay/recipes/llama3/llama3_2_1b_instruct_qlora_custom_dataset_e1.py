"""Llama-3.2-1B-Instruct: QLoRA, your own conversations."""

_base_ = [
    "../_base/settings.py",
    "../_base/model_qlora.py",
    "../_base/data_custom.py",
    "../_base/optim.py",
    "../_base/runtime.py",
]

pretrained_model_name_or_path = "meta-llama/Llama-3.2-1B-Instruct"
