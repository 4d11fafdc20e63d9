# The resolved config of a run: every value is final. A setting that others were computed from
# stands beside them for reference; changing it here changes nothing else.

from torch import float32
from torch.optim import AdamW
from transformers import AutoTokenizer

from inlay.data import GroundingDataset, PhraseSet, SquareImageProcessor
from inlay.engine import CosineAnnealingLR, LinearLR, OptimWrapper, TrainLoop
from inlay.engine.hooks import (
    CheckpointHook,
    DatasetInfoHook,
    DistSamplerSeedHook,
    IterTimerHook,
    LoggerHook,
    ParamSchedulerHook,
    ThroughputHook,
)
from inlay.models import FrozenGrounding, GenericAdapter, SamRefiner, UNetHead

_resolved_ = True
data_root = 'scenes'
pretrained_model_name_or_path = 'tiny_vlm'
sam_checkpoint = 'scenes/sam'
freeze_sam_encoder = False
base_channels = 16
upsample_input = 24
merge = 'mean'
data_path = 'scenes/train.jsonl'
image_folder = 'scenes/images'
prompt_template = None
prompt = '<image>\nwhat is there?'
max_length = 512
picture_size = 96
batch_size = 16
accumulative_counts = 1
dataloader_num_workers = 0
max_epochs = 1
optim_type = AdamW
lr = 0.0015
betas = (0.9, 0.999)
weight_decay = 0.01
max_norm = 1
precision = 'float32'
warmup_ratio = 0.03
save_steps = 500
save_total_limit = 2
tokenizer = dict(
    type=AutoTokenizer.from_pretrained,
    pretrained_model_name_or_path='tiny_vlm',
    padding_side='right',
)
image_processor = dict(
    type=SquareImageProcessor,
    tokenizer=tokenizer,
    visual_encoder='tiny_vlm/visual_encoder',
    pixel_shuffle_factor=2,
)
sam = dict(type=SamRefiner.from_pretrained, checkpoint='scenes/sam', freeze_encoder=False)
model = dict(
    type=FrozenGrounding,
    lmm=dict(
        type=GenericAdapter.from_pretrained,
        pretrained_model_name_or_path='tiny_vlm',
        dtype=float32,
    ),
    image_processor=image_processor,
    mask_head=dict(type=UNetHead, base_channels=16, upsample_input=24),
    refiner=sam,
    merge='mean',
)
train_dataset = dict(
    type=GroundingDataset,
    sources=[dict(type=PhraseSet, path='scenes/train.jsonl', image_folder='scenes/images')],
    tokenizer=tokenizer,
    image_processor=image_processor,
    template=None,
    prompt='<image>\nwhat is there?',
    max_length=512,
    picture_size=96,
)
train_dataloader = dict(batch_size=16, num_workers=0, dataset=train_dataset)
val_dataloader = None
optim_wrapper = dict(
    type=OptimWrapper,
    optimizer=dict(type=AdamW, lr=0.0015, betas=(0.9, 0.999), weight_decay=0.01),
    clip_grad=dict(max_norm=1),
    accumulative_counts=1,
    loss_scale='dynamic',
    dtype='float32',
)
param_scheduler = [
    dict(
        type=LinearLR,
        start_factor=1e-05,
        by_epoch=True,
        begin=0,
        end=0.03,
        convert_to_iter_based=True,
    ),
    dict(
        type=CosineAnnealingLR,
        eta_min=0.0,
        by_epoch=True,
        begin=0.03,
        end=1,
        convert_to_iter_based=True,
    ),
]
train_cfg = dict(type=TrainLoop, max_epochs=1, val_interval=1, val_begin=0)
custom_hooks = [dict(type=DatasetInfoHook, tokenizer=tokenizer), dict(type=ThroughputHook)]
default_hooks = dict(
    timer=dict(type=IterTimerHook),
    logger=dict(type=LoggerHook, interval=10),
    param_scheduler=dict(type=ParamSchedulerHook),
    checkpoint=dict(type=CheckpointHook, by_epoch=False, interval=500, max_keep_ckpts=2),
    sampler_seed=dict(type=DistSamplerSeedHook),
)
env_cfg = dict(cudnn_benchmark=False, dist_cfg=dict(backend='nccl'))
visualizer = None
log_level = 'INFO'
load_from = None
resume = False
randomness = dict(seed=0, deterministic=False)
log_processor = dict(by_epoch=False)
