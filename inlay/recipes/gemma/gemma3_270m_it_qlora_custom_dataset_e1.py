"""gemma-3-270m-it: QLoRA, your own conversations."""

_base_ = [
    "../_base/settings.py",
    "../_base/model_qlora.py",
    "../_base/data_custom.py",
    "../_base/optim.py",
    "../_base/runtime.py",
]

pretrained_model_name_or_path = "google/gemma-3-270m-it"
