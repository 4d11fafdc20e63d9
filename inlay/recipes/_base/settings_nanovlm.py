"""PART 1 of a VLM from two backbones, by the names that nanoVLM gives its options."""

from torch.optim import AdamW

#######################################################################
#                           PART 1  Settings                          #
#######################################################################
# Model
vit_model_type = "google/siglip2-base-patch16-512"
lm_model_type = "HuggingFaceTB/SmolLM2-360M-Instruct"
lm_tokenizer = lm_model_type
# trained weights of all three parts to start from: a checkpoint or work dir, or a nanoVLM folder
resume_from_vlm_checkpoint = None
mp_pixel_shuffle_factor = 4  # 4 x 4 patches become one token: 64 tokens for 512 x 512 px
max_img_size = 2048  # px, longest side
resize_to_max_side_len = False  # True enlarges all pictures to max_img_size, as nanoVLM does
normalise_pixels = True  # False: pixels in [0, 1], which models in nanoVLM's layout expect
lm_max_length = 4096  # tokens of a pack
compile = False
# ChatML; the line break behind an answer is trained with it, as nanoVLM does
lm_chat_template = dict(
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
stream_dataset = True  # False: all rows are read, tokenised and mixed before the run
image_folder = None  # for rows that name files instead of holding pictures
val_size = 50_000  # samples held out, with everything else about their pictures
max_sample_length = 4096  # tokens; longer samples are left out and counted
max_images_per_example = 4  # samples with more are left out and counted
max_images_per_knapsack = 63  # tiles of a pack, views of a whole picture included; 63 fill 4096
relevance_min_rating = 1
image_correspondence_min_rating = 1
visual_dependency_min_rating = 1
formatting_min_rating = 1

# Scheduler & Optimizer; a rate of 0 freezes the part
lr_mp = 0.00512  # the projector's
lr_vision_backbone = 5e-5
lr_language_backbone = 5e-5
batch_size = 2  # packs per device
gradient_accumulation_steps = 8
dataloader_num_workers = 3
max_training_steps = 40_000  # updates
max_grad_norm = 1.0
precision = "bfloat16"  # of the computation; or "float16", "float32"
optim_type = AdamW
warmup_ratio = 0.03
min_lr_ratio = 0.1

# Save and validate
eval_in_epochs = True  # False never validates
eval_interval = 500  # updates
eval_batches = 64  # at most, of all devices together
stats_log_interval = 100  # updates
save_total_limit = 2  # checkpoints to keep besides the best; -1 keeps all
log_wandb = False  # True records the run with Weights & Biases (pip install 'inlay[track]')
wandb_entity = None  # None: your own
use_lmms_eval = False  # True: benchmarks of a checkpoint, every 2 x eval_interval, beside training
lmms_eval_tasks = (
    "mmstar,mmmu_val,ocrbench,textvqa_val,docvqa_val,scienceqa,mme,infovqa_val,chartqa"
)
lmms_eval_limit = None  # questions of each benchmark; None: all
lmms_eval_run_by = "slurm"  # or "local": processes of this machine
slurm_options = ["--gres=gpu:1"]  # of sbatch
vlm_checkpoint_path = None  # work dir of the run; None: ./work_dirs/<name of this file>
push_to_hub = False  # the best by validation, when the run is over
hf_repo_name = "nanoVLM"

# Let the model answer while it trains
SYSTEM = ""
evaluation_images = None
evaluation_inputs = ["What is your favourite place on earth?"]
