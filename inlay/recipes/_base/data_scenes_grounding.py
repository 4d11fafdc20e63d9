# ruff: noqa: F821 (a part of a config: its names are assigned by the other parts)
"""PART 3: captions of scenes with a mask for each phrase; rows without phrases are left out."""

from inlay.data import GroundingDataset, PhraseSet

#######################################################################
#                     PART 3  Dataset & Dataloader                    #
#######################################################################
train_dataset = dict(
    type=GroundingDataset,
    sources=[dict(type=PhraseSet, path=data_path, image_folder=image_folder)],
    tokenizer=tokenizer,
    image_processor=image_processor,
    template=prompt_template,
    prompt=prompt,
    max_length=max_length,
    picture_size=picture_size if sam_checkpoint else None,
)

train_dataloader = dict(
    batch_size=batch_size,
    num_workers=dataloader_num_workers,
    dataset=train_dataset,
)

val_dataloader = None  # `inlay eval phrases` measures
