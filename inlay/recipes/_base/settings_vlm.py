"""PART 1 of a vision-language model that comes as a whole."""

from torch.optim import AdamW

#######################################################################
#                           PART 1  Settings                          #
#######################################################################
# Model
pretrained_model_name_or_path = "Qwen/Qwen2.5-VL-3B-Instruct"
min_pixels = None  # px of a picture; smaller ones are enlarged. None: the model's own limit
max_pixels = None  # px of a picture; larger ones are shrunk
freeze = ("vision",)  # of "vision", "projector", "language", module paths; they get no adapters

# Data
data_path = "data.json"  # a file, a folder, or the name of a data set on the hub
data_format = None  # None: found from the rows; `inlay list-dataset-format` prints the names
image_folder = None  # None: the folder of the data file
val_fraction = 0.05  # share of the rows held out; a picture's rows stay together
prompt_template = None  # None: the model's own chat template
max_length = 4096  # tokens, those of the pictures included
pack_to_max_length = True

# Scheduler & Optimizer
batch_size = 1  # per device
accumulative_counts = 16
dataloader_num_workers = 4
max_epochs = 1
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
evaluation_images = None  # one picture, or one for each input
evaluation_inputs = ["请描述一下这张照片", "Please describe this picture"]
