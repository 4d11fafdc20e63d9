# ruff: noqa: F821 (a part of a config: its names are assigned by the other parts)
"""PART 5: hooks and environment."""

from inlay.engine.hooks import (
    CheckpointHook,
    DatasetInfoHook,
    DistSamplerSeedHook,
    EvaluateChatHook,
    IterTimerHook,
    LoggerHook,
    ParamSchedulerHook,
    ThroughputHook,
)

#######################################################################
#                           PART 5  Runtime                           #
#######################################################################
custom_hooks = [
    dict(type=DatasetInfoHook, tokenizer=tokenizer),
    dict(
        type=EvaluateChatHook,
        tokenizer=tokenizer,
        every_n_iters=evaluation_freq,
        evaluation_inputs=evaluation_inputs,
        system=SYSTEM,
        prompt_template=prompt_template,
    ),
    dict(type=ThroughputHook),
]

default_hooks = dict(
    timer=dict(type=IterTimerHook),
    logger=dict(type=LoggerHook, interval=10),
    param_scheduler=dict(type=ParamSchedulerHook),
    checkpoint=dict(
        type=CheckpointHook,
        by_epoch=False,
        interval=save_steps,
        max_keep_ckpts=save_total_limit,
    ),
    sampler_seed=dict(type=DistSamplerSeedHook),
)

env_cfg = dict(cudnn_benchmark=False, dist_cfg=dict(backend="nccl"))
visualizer = None
log_level = "INFO"

load_from = None  # a checkpoint whose weights the run starts from
resume = False  # go on from the newest checkpoint of the work dir

randomness = dict(seed=0, deterministic=False)
log_processor = dict(by_epoch=False)
