"""PART 1, shared by every recipe."""

from torch.optim import AdamW

#######################################################################
#                           PART 1  Settings                          #
#######################################################################
# Model
pretrained_model_name_or_path = "Qwen/Qwen3-0.6B"

# Data
data_path = "data.json"  # a file, a folder, or the name of a data set on the hub
data_format = None  # None: found from the rows; `inlay list-dataset-format` prints the names
val_fraction = 0.05  # share of the rows held out for validation; 0 trains on all
prompt_template = None  # None: the tokenizer's own chat template; or PROMPT_TEMPLATE.qwen_chat, ...
max_length = 2048  # tokens
pack_to_max_length = True

# Scheduler & Optimizer
batch_size = 1  # per device
accumulative_counts = 16
dataloader_num_workers = 0
max_epochs = 3
optim_type = AdamW
lr = 2e-4
betas = (0.9, 0.999)
weight_decay = 0
max_norm = 1  # gradient clipping
precision = "bfloat16"  # of the computation; or "float16", "float32"
warmup_ratio = 0.03

# Save
save_steps = 500
save_total_limit = 2  # checkpoints to keep; -1 keeps all

# Let the model answer while it trains
evaluation_freq = 500
SYSTEM = ""
evaluation_inputs = ["请给我介绍五个上海的景点", "Please tell me five scenic spots in Shanghai"]
