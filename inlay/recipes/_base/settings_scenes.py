"""PART 1 of the tiny model that sees: everything beside one folder, as `inlay scenes` writes it."""

from torch.optim import AdamW

#######################################################################
#                           PART 1  Settings                          #
#######################################################################
# Data
data_root = "scenes"
data_path = data_root + "/train.jsonl"
data_format = None  # None: found from the rows; `inlay list-dataset-format` prints the names
image_folder = data_root + "/images"
val_fraction = 0.01  # share of the rows held out; a picture's rows stay together
prompt_template = None  # None: the tokenizer's own chat template
max_length = 512  # tokens, those of the pictures included
pack_to_max_length = False

# Model
llm_name_or_path = data_root + "/model"
visual_encoder_name_or_path = llm_name_or_path + "/visual_encoder"
pretrained_pth = None  # trained weights to start from: a checkpoint, or an export

# Scheduler & Optimizer
batch_size = 16  # per device
accumulative_counts = 1
dataloader_num_workers = 0
max_epochs = 10
optim_type = AdamW
lr = 2e-3
betas = (0.9, 0.98)
weight_decay = 0.01
max_norm = 1  # gradient clipping
precision = "float32"  # of the computation: quicker on a CPU at this size
warmup_ratio = 0.03

# Save
save_steps = 500
save_total_limit = 2  # checkpoints to keep; -1 keeps all

# Let the model answer while it trains
evaluation_freq = 2000
SYSTEM = ""
evaluation_images = image_folder + "/pairs_000000.png"  # shows a pair that is held out
evaluation_inputs = ["describe the picture."]
