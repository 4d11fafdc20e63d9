# ruff: noqa: F821 (a part of a config: its names are assigned by the other parts)
"""PART 5 of a model with eyes: its evaluation questions come with a picture."""

from inlay.engine.hooks import DatasetInfoHook, EvaluateChatHook, ThroughputHook

_base_ = ["runtime.py"]

custom_hooks = [
    dict(type=DatasetInfoHook, tokenizer=tokenizer),
    dict(
        type=EvaluateChatHook,
        tokenizer=tokenizer,
        image_processor=image_processor,
        every_n_iters=evaluation_freq,
        evaluation_inputs=evaluation_inputs,
        evaluation_images=evaluation_images,
        system=SYSTEM,
        prompt_template=prompt_template,
    ),
    dict(type=ThroughputHook),
]
