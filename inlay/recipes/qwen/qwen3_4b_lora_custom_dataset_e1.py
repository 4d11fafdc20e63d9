"""Qwen3-4B: LoRA, your own conversations."""

_base_ = [
    "../_base/settings.py",
    "../_base/model_lora.py",
    "../_base/data_custom.py",
    "../_base/optim.py",
    "../_base/runtime.py",
]

pretrained_model_name_or_path = "Qwen/Qwen3-4B"
