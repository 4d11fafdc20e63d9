# ruff: noqa: F821 (a part of a config: its names are assigned by the other parts)
"""PARTS 2 to 5 of a VLM from two backbones."""

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from inlay.data import ChatDataset, StreamDataset, TiledImageProcessor
from inlay.engine import (
    OptimWrapper,
    TrainLoop,
    Visualizer,
    WandbVisBackend,
    WarmupCosineLR,
)
from inlay.engine.hooks import (
    CheckpointHook,
    DatasetInfoHook,
    DistSamplerSeedHook,
    EpochStatisticsHook,
    EvaluateChatHook,
    EvaluationJobsHook,
    IterTimerHook,
    LoggerHook,
    ParamSchedulerHook,
    PushToHubHook,
    StatisticsHook,
)
from inlay.models import LLaVAModel, load_visual_encoder

#######################################################################
#             PART 2  Model & Tokenizer & Image Processor             #
#######################################################################
tokenizer = dict(
    type=AutoTokenizer.from_pretrained,
    pretrained_model_name_or_path=lm_tokenizer,
    padding_side="right",
)

image_processor = dict(
    type=TiledImageProcessor,
    tokenizer=tokenizer,
    visual_encoder=vit_model_type,
    pixel_shuffle_factor=mp_pixel_shuffle_factor,
    max_image_size=max_img_size,
    resize_to_max=resize_to_max_side_len,
    image_mean="encoder" if normalise_pixels else None,
    image_std="encoder" if normalise_pixels else None,
)

model = dict(
    type=LLaVAModel,
    tokenizer=tokenizer,
    projector="pixel_shuffle",
    pixel_shuffle_factor=mp_pixel_shuffle_factor,
    visual_select_layer=None,  # the last layer, after the final norm
    pretrained_pth=resume_from_vlm_checkpoint,
    llm=dict(
        type=AutoModelForCausalLM.from_pretrained,
        pretrained_model_name_or_path=lm_model_type,
        dtype=torch.float32,
    ),
    visual_encoder=dict(
        type=load_visual_encoder,
        pretrained_model_name_or_path=vit_model_type,
        dtype=torch.float32,
    ),
)

#######################################################################
#                     PART 3  Dataset & Dataloader                    #
#######################################################################
train_dataset = dict(
    type=StreamDataset if stream_dataset else ChatDataset,
    sources=[
        dict(
            path=train_dataset_path,
            name=train_dataset_name,
            image_folder=image_folder,
            skip_failing=True,
        )
    ],
    tokenizer=tokenizer,
    image_processor=image_processor,
    template=lm_chat_template,
    max_length=lm_max_length,
    max_sample_length=max_sample_length,
    overlong="drop",
    max_images=max_images_per_example,
    max_tiles=max_images_per_knapsack,
    min_ratings=dict(
        relevance=relevance_min_rating,
        image_correspondence=image_correspondence_min_rating,
        visual_dependency=visual_dependency_min_rating,
        formatting=formatting_min_rating,
    ),
    val_size=val_size,
    part="train",
)
if not stream_dataset:
    train_dataset["num_proc"] = max(1, dataloader_num_workers)

train_dataloader = dict(
    batch_size=batch_size,
    num_workers=dataloader_num_workers,
    dataset=train_dataset,
)

val_dataloader = None
if val_size and eval_in_epochs:
    val_dataset = dict(train_dataset, part="val", max_items=eval_batches * batch_size)
    val_dataloader = dict(
        batch_size=batch_size,
        num_workers=1,
        dataset=val_dataset,
    )

#######################################################################
#                    PART 4  Scheduler & Optimizer                    #
#######################################################################
optim_wrapper = dict(
    type=OptimWrapper,
    optimizer=dict(type=optim_type, lr=max(lr_mp, lr_vision_backbone, lr_language_backbone)),
    lr_groups=dict(
        projector=lr_mp,
        visual_encoder=lr_vision_backbone,
        llm=lr_language_backbone,
    ),
    clip_grad=dict(max_norm=max_grad_norm),
    accumulative_counts=gradient_accumulation_steps,
    dtype=precision,
)

param_scheduler = [
    dict(
        type=WarmupCosineLR,
        warmup_ratio=warmup_ratio,
        eta_min_ratio=min_lr_ratio,
    ),
]

train_cfg = dict(
    type=TrainLoop,
    max_iters=max_training_steps * gradient_accumulation_steps,
    val_interval=eval_interval * gradient_accumulation_steps,
)

#######################################################################
#                           PART 5  Runtime                           #
#######################################################################
run_name = (
    f"nanoVLM_{vit_model_type.split('/')[-1]}_{max_img_size}_mp{mp_pixel_shuffle_factor}_"
    f"{lm_model_type.split('/')[-1]}_{{num_gpus}}xGPU_bs{{global_batch}}_{max_training_steps}_"
    f"lr_vision_{lr_vision_backbone}-language_{lr_language_backbone}-{lr_mp}_{{date}}"
)

custom_hooks = [
    dict(type=DatasetInfoHook, tokenizer=tokenizer),
    dict(
        type=EvaluateChatHook,
        tokenizer=tokenizer,
        image_processor=image_processor,
        every_n_iters=eval_interval * gradient_accumulation_steps,
        evaluation_inputs=evaluation_inputs,
        evaluation_images=evaluation_images,
        system=SYSTEM,
        prompt_template=lm_chat_template,
        max_new_tokens=100,
    ),
    dict(type=StatisticsHook, interval=stats_log_interval * gradient_accumulation_steps),
    dict(type=EpochStatisticsHook),
]
if use_lmms_eval:
    benchmarks = lmms_eval_tasks  # a list, or one line as nanoVLM has it
    benchmarks = benchmarks.split(",") if isinstance(benchmarks, str) else benchmarks
    custom_hooks.append(
        dict(
            type=EvaluationJobsHook,
            interval=2 * eval_interval * gradient_accumulation_steps,
            tasks=[f"lmms:{task}" for task in benchmarks],
            limit=lmms_eval_limit,
            run_by=lmms_eval_run_by,
            slurm_options=slurm_options,
        )
    )
if push_to_hub:
    custom_hooks.append(dict(type=PushToHubHook, repo_id=hf_repo_name, private=True))

default_hooks = dict(
    timer=dict(type=IterTimerHook),
    logger=dict(type=LoggerHook, interval=gradient_accumulation_steps),  # each update
    param_scheduler=dict(type=ParamSchedulerHook),
    checkpoint=dict(
        type=CheckpointHook,
        by_epoch=False,
        interval=eval_interval * gradient_accumulation_steps,
        max_keep_ckpts=save_total_limit,
    ),
    sampler_seed=dict(type=DistSamplerSeedHook),
)

env_cfg = dict(
    cudnn_benchmark=False,
    dist_cfg=dict(backend="nccl", timeout=1800),  # seconds
    compile=compile,
)
# nanoVLM's names of the curves
visualizer = dict(
    type=Visualizer,
    vis_backends=None,
    names={
        "loss": "batch_loss",
        "grad_norm": "grad_norm",
        "val/loss": "val_loss",
        "epoch/loss": "epoch_loss",
        "epoch/tokens_per_second": "epoch_tokens_per_second",
    },
)
if log_wandb:
    wandb_run = dict(entity=wandb_entity, project="nanoVLM")
    visualizer["vis_backends"] = [dict(type=WandbVisBackend, init_kwargs=wandb_run)]
log_level = "INFO"
work_dir = vlm_checkpoint_path

load_from = None  # a checkpoint whose weights the run starts from
resume = False  # go on from the newest checkpoint of the work dir

randomness = dict(seed=0, deterministic=False)
log_processor = dict(by_epoch=False)
