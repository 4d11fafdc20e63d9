"""PART 1 of grounding a frozen model, as F-LMM does it (arXiv 2406.05821)."""

from torch.optim import AdamW

from inlay.models import GenericAdapter

#######################################################################
#                           PART 1  Settings                          #
#######################################################################
# Model
pretrained_model_name_or_path = "Qwen/Qwen2.5-VL-3B-Instruct"
adapter = GenericAdapter  # how the frozen model is run and looked at
sam_checkpoint = "checkpoints/sam_vit_l_0b3195.pth"  # None: coarse masks only
picture_size = 1024  # px of the longest side as SAM sees it
merge = "mean"  # over the tokens of a phrase; or "max"

# Data
data_root = "data/coco/"
path_mapping = None  # parts of paths and what stands in their place, for RefCOCO's pictures
ceph_path = None  # the folder of PNG's pictures in object storage
prompt_template = None  # None: the model's own chat template
prompt = "<image>\nPlease give me a description of the image."
max_length = 4096  # tokens, those of the picture included
cache_dir = None  # a folder keeps SAM's picture embeddings: later epochs do not compute them
cache_texts = False  # keep there what the frozen model shows as well: many times larger

# Scheduler & Optimizer
batch_size = 1  # per device; the published models were trained on 8
accumulative_counts = 1
dataloader_num_workers = 4
max_epochs = 8
optim_type = AdamW
lr = 1e-4
betas = (0.9, 0.999)
weight_decay = 0.01
max_norm = 1  # gradient clipping
precision = "bfloat16"  # of the computation; or "float16", "float32"
warmup_ratio = 0.03

# Save
save_steps = 500
save_total_limit = 1  # checkpoints to keep; -1 keeps all
