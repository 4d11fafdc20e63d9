"""SmolVLM-256M: every weight but the vision encoder's, the user's own conversations."""

_base_ = [
    "../_base/settings_vlm.py",
    "../_base/model_vlm_full.py",
    "../_base/data_images.py",
    "../_base/optim.py",
    "../_base/runtime_images.py",
]

pretrained_model_name_or_path = "HuggingFaceTB/SmolVLM-256M-Instruct"
lr = 1e-5
