"""SmolLM2-360M-Instruct: QLoRA, alpaca."""

_base_ = [
    "../_base/settings.py",
    "../_base/model_qlora.py",
    "../_base/data_alpaca.py",
    "../_base/optim.py",
    "../_base/runtime.py",
]

pretrained_model_name_or_path = "HuggingFaceTB/SmolLM2-360M-Instruct"
