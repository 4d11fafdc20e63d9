# ruff: noqa: F821 (a part of a config: its names are assigned by the other parts)
"""PART 4 of LLaVA: the projector may learn at a rate of its own."""

from inlay.engine import OptimWrapper

_base_ = ["optim.py"]

optim_wrapper = dict(
    type=OptimWrapper,
    optimizer=dict(type=optim_type, lr=lr, betas=betas, weight_decay=weight_decay),
    lr_groups=None if mm_projector_lr is None else dict(projector=mm_projector_lr),
    clip_grad=dict(max_norm=max_norm),
    accumulative_counts=accumulative_counts,
    loss_scale="dynamic",
    dtype=precision,
)
