"""PART 1 of a VLM from two backbones, by the names that nanoVLM gives its options."""

from torch.optim import AdamW

#######################################################################
#                           PART 1  Settings                          #
#######################################################################
# Model
vit_model_type = "google/siglip2-base-patch16-512"
lm_model_type = "HuggingFaceTB/SmolLM2-360M-Instruct"
mp_pixel_shuffle_factor = 4  # 4 x 4 patches become one token: 64 tokens for 512 x 512 px
max_img_size = 2048  # px, longest side
resize_to_max_side_len = False  # True blows small pictures up to max_img_size
lm_max_length = 4096  # tokens of a pack
compile = False
# ChatML; the line break behind an answer is trained with it, as nanoVLM does
prompt_template = dict(
    SYSTEM="<|im_start|>system\n{system}<|im_end|>\n",
    INSTRUCTION="<|im_start|>user\n{input}<|im_end|>\n<|im_start|>assistant\n",
    SUFFIX="<|im_end|>\n",
    SUFFIX_AS_EOS=True,
    SEP="",
    STOP_WORDS=["<|im_end|>"],
)

# Data
train_dataset_path = "HuggingFaceM4/FineVision_concat_shuffled_2"
train_dataset_name = ("default",)  # subsets, "all" of them, or "shards" of a local folder
stream_dataset = True
image_folder = None  # for rows that name files instead of holding pictures
val_size = 50_000  # samples held out, with everything else about their pictures
max_sample_length = 4096  # tokens; longer samples are left out and counted
max_images_per_example = 4  # samples with more are left out and counted
max_images_per_knapsack = 63  # tiles of a pack; 63 are what 4096 tokens can hold
relevance_min_rating = 1
image_correspondence_min_rating = 1
visual_dependency_min_rating = 1
formatting_min_rating = 1

# Scheduler & Optimizer; a rate of 0 freezes the part
lr_mp = 0.00512
lr_vision_backbone = 5e-5
lr_language_backbone = 5e-5
batch_size = 2  # packs per device
gradient_accumulation_steps = 8
dataloader_num_workers = 3
max_training_steps = 40_000  # updates
max_grad_norm = 1.0
optim_type = AdamW
warmup_ratio = 0.03
min_lr_ratio = 0.1

# Save and validate
eval_in_epochs = True
eval_interval = 500  # updates
eval_batches = 64
stats_log_interval = 100  # updates
save_total_limit = 2
push_to_hub = False
hf_repo_name = "nanoVLM"

# Let the model answer while it trains
SYSTEM = ""
evaluation_images = None
evaluation_inputs = ["What is your favourite place on earth?"]
