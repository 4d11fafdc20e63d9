"""Qwen3-VL-4B: LoRA, the user's own conversations about pictures."""

_base_ = [
    "../_base/settings_vlm.py",
    "../_base/model_vlm_lora.py",
    "../_base/data_images.py",
    "../_base/optim.py",
    "../_base/runtime_images.py",
]

pretrained_model_name_or_path = "Qwen/Qwen3-VL-4B-Instruct"
max_pixels = 1280 * 28 * 28
