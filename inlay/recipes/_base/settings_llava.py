"""PART 1 of LLaVA: a language model, a vision encoder, and a projector between them."""

from torch.optim import AdamW

from inlay.data import PROMPT_TEMPLATE

#######################################################################
#                           PART 1  Settings                          #
#######################################################################
# Model
llm_name_or_path = "lmsys/vicuna-7b-v1.5"
visual_encoder_name_or_path = "openai/clip-vit-large-patch14-336"
pretrained_pth = None  # the projector of the pretrain stage: its checkpoint, or its export

# Data
data_root = "./data/llava_data/"
data_path = data_root + "LLaVA-Instruct-150K/llava_v1_5_mix665k.json"
data_format = None  # None: found from the rows; `inlay list-dataset-format` prints the names
image_folder = data_root + "llava_images"
val_fraction = 0.0  # share of the rows held out; a picture's rows stay together
prompt_template = PROMPT_TEMPLATE.vicuna
max_length = 2048  # tokens, those of the pictures included
pack_to_max_length = False
pad_image_to_square = True  # False: cut to the centre, as the encoder's own processor does

# Scheduler & Optimizer
batch_size = 16  # per device
accumulative_counts = 1
dataloader_num_workers = 4
max_epochs = 1
optim_type = AdamW
lr = 2e-4
mm_projector_lr = None  # the projector's own rate; None: lr
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
evaluation_images = "https://llava-vl.github.io/static/images/view.jpg"
evaluation_inputs = ["请描述一下这张照片", "Please describe this picture"]
