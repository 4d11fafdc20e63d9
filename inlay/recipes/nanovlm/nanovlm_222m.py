"""nanoVLM-222M: SigLIP-B/224 and SmolLM2-135M, one view per picture, 49 tokens."""

_base_ = ["../_base/settings_nanovlm.py", "../_base/nanovlm.py"]

vit_model_type = "google/siglip-base-patch16-224"
lm_model_type = "HuggingFaceTB/SmolLM2-135M-Instruct"
mp_pixel_shuffle_factor = 2
max_img_size = 224
train_dataset_path = "HuggingFaceM4/the_cauldron"
train_dataset_name = ("all",)
stream_dataset = False  # a stream would take one subset after the other
max_images_per_knapsack = 40  # 2048 tokens hold no more
lm_max_length = 2048
max_sample_length = 2048
lr_mp = 2e-3
lr_vision_backbone = 1e-4
lr_language_backbone = 1e-4
batch_size = 8
gradient_accumulation_steps = 3  # about 256 conversations an update
max_training_steps = 6_640  # 1.7 million conversations
eval_interval = 250
val_size = 20_000
