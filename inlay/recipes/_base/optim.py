# ruff: noqa: F821 (a part of a config: its names are assigned by the other parts)
"""PART 4: AdamW under bfloat16, linear warm-up, cosine decay."""

from inlay.engine import CosineAnnealingLR, LinearLR, OptimWrapper, TrainLoop

#######################################################################
#                    PART 4  Scheduler & Optimizer                    #
#######################################################################
optim_wrapper = dict(
    type=OptimWrapper,
    optimizer=dict(type=optim_type, lr=lr, betas=betas, weight_decay=weight_decay),
    clip_grad=dict(max_norm=max_norm),
    accumulative_counts=accumulative_counts,
    loss_scale="dynamic",
    dtype=precision,
)

# begin and end are in epochs, the rate moves at every iteration
param_scheduler = [
    dict(
        type=LinearLR,
        start_factor=1e-5,
        by_epoch=True,
        begin=0,
        end=warmup_ratio * max_epochs,
        convert_to_iter_based=True,
    ),
    dict(
        type=CosineAnnealingLR,
        eta_min=0.0,
        by_epoch=True,
        begin=warmup_ratio * max_epochs,
        end=max_epochs,
        convert_to_iter_based=True,
    ),
]

# validated before training and after every epoch, where rows are held out
train_cfg = dict(type=TrainLoop, max_epochs=max_epochs, val_interval=1, val_begin=0)
