"""Qwen3-0.6B and SigLIP2-B/384, stage 1: the projector."""

_base_ = [
    "../_base/settings_llava.py",
    "../_base/model_llava_pretrain.py",
    "../_base/data_llava.py",
    "../_base/optim_llava.py",
    "../_base/runtime_images.py",
]

llm_name_or_path = "Qwen/Qwen3-0.6B"
visual_encoder_name_or_path = "google/siglip2-base-patch16-384"
prompt_template = None  # the tokenizer's own chat template
accumulative_counts = 8  # 256 captions an update, as on eight devices
