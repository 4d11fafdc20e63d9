"""gemma-3-1b-it: full fine-tuning, your own conversations."""

_base_ = [
    "../_base/settings.py",
    "../_base/model_full.py",
    "../_base/data_custom.py",
    "../_base/optim.py",
    "../_base/runtime.py",
]

pretrained_model_name_or_path = "google/gemma-3-1b-it"
