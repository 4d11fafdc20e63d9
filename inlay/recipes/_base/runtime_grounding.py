# ruff: noqa: F821 (a part of a config: its names are assigned by the other parts)
"""PART 5 of grounding: nothing is asked while it trains, for the model that answers is frozen."""

from inlay.engine.hooks import DatasetInfoHook, GroundingOverlayHook, ThroughputHook

_base_ = ["runtime.py"]

custom_hooks = [
    dict(type=DatasetInfoHook, tokenizer=tokenizer),
    dict(type=ThroughputHook),
    dict(type=GroundingOverlayHook, samples=4, every_n_iters=save_steps),
]
