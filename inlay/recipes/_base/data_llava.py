# ruff: noqa: F821 (a part of a config: its names are assigned by the other parts)
"""PART 3 of LLaVA: samples of like length meet in a batch, so that no device waits for another."""

from inlay.data import LengthGroupedSampler

_base_ = ["data_images.py"]

train_dataloader = dict(
    batch_size=batch_size,
    num_workers=dataloader_num_workers,
    dataset=train_dataset,
    sampler=dict(
        type=LengthGroupedSampler,
        length_property="modality_length",
        per_device_batch_size=batch_size * accumulative_counts,
    ),
)
