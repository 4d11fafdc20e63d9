"""PART 1 of grounding the tiny VLM: everything beside one folder, as `inlay scenes` writes it."""

from torch.optim import AdamW

#######################################################################
#                           PART 1  Settings                          #
#######################################################################
data_root = "scenes"

# Model
pretrained_model_name_or_path = "tiny_vlm"  # LLaVA parts: the trained tiny model
sam_checkpoint = data_root + "/sam"  # a tiny SAM; None: coarse masks only
freeze_sam_encoder = False  # a random one has to learn
base_channels = 16  # of the mask head
upsample_input = 24  # px of the coarse masks
merge = "mean"  # over the tokens of a phrase; or "max"

# Data
data_path = data_root + "/train.jsonl"
image_folder = data_root + "/images"
prompt_template = None  # None: the tokenizer's own chat template
prompt = "<image>\nwhat is there?"
max_length = 512  # tokens, those of the picture included
picture_size = 96  # px of the longest side for SAM

# Scheduler & Optimizer
batch_size = 16  # per device
accumulative_counts = 1
dataloader_num_workers = 0
max_epochs = 1
optim_type = AdamW
lr = 2e-3
betas = (0.9, 0.999)
weight_decay = 0.01
max_norm = 1  # gradient clipping
precision = "float32"  # of the computation: quicker on a CPU at this size
warmup_ratio = 0.03

# Save
save_steps = 500
save_total_limit = 2  # checkpoints to keep; -1 keeps all
