# ruff: noqa: F821 (a part of a config: its names are assigned by the other parts)
"""PART 3: conversations about pictures, and without, packed; read in the workers."""

from inlay.data import ChatDataset

#######################################################################
#                     PART 3  Dataset & Dataloader                    #
#######################################################################
train_dataset = dict(
    type=ChatDataset,
    sources=[dict(path=data_path, format=data_format, image_folder=image_folder)],
    tokenizer=tokenizer,
    image_processor=image_processor,
    template=prompt_template,
    max_length=max_length,
    pack_to_max_length=pack_to_max_length,
    overlong="truncate",
    val_fraction=val_fraction,
    part="train",
    num_proc=max(1, dataloader_num_workers),  # each picture is looked at once, before the run
)

train_dataloader = dict(
    batch_size=batch_size,
    num_workers=dataloader_num_workers,
    dataset=train_dataset,
)

val_dataloader = None
if val_fraction:
    val_dataset = dict(train_dataset, part="val")
    val_dataloader = dict(
        batch_size=batch_size,
        num_workers=dataloader_num_workers,
        dataset=val_dataset,
    )
