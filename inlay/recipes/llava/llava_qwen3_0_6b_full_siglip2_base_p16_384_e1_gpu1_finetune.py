"""Qwen3-0.6B and SigLIP2-B/384, stage 2: projector and language model."""

_base_ = [
    "../_base/settings_llava.py",
    "../_base/model_llava_full.py",
    "../_base/data_llava.py",
    "../_base/optim_llava.py",
    "../_base/runtime_images.py",
]

llm_name_or_path = "Qwen/Qwen3-0.6B"
visual_encoder_name_or_path = "google/siglip2-base-patch16-384"
prompt_template = None  # the tokenizer's own chat template
pretrained_pth = "./work_dirs/llava_qwen3_0_6b_siglip2_base_p16_384_e1_gpu1_pretrain"
batch_size = 8
accumulative_counts = 16  # 128 conversations an update, as on eight devices
save_steps = 4000
evaluation_freq = 4000
