"""Qwen3-4B: LoRA, alpaca."""

_base_ = [
    "../_base/settings.py",
    "../_base/model_lora.py",
    "../_base/data_alpaca.py",
    "../_base/optim.py",
    "../_base/runtime.py",
]

pretrained_model_name_or_path = "Qwen/Qwen3-4B"
