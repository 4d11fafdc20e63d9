# ruff: noqa: F821 (a part of a config: its names are assigned by the other parts)
"""PART 3: PNG and RefCOCO, RefCOCO+, RefCOCOg, one picture with its phrases an item."""

from inlay.data import PNG, GroundingDataset, RefCOCO

#######################################################################
#                     PART 3  Dataset & Dataloader                    #
#######################################################################
datasets_list = [
    dict(
        type=PNG,
        json_file=data_root + "annotations/png_coco_train2017.json",
        panoptic_json_file=data_root + "annotations/panoptic_train2017.json",
        panoptic_png_path=data_root + "annotations/panoptic_train2017",
        image_folder=data_root + "train2017",
        ceph_path=ceph_path,
    ),
    dict(
        type=RefCOCO,
        instances=data_root + "refcoco/instances.json",
        refs=data_root + "refcoco/refs(unc).p",
        image_folder=data_root + "train2014",
        path_mapping=path_mapping,
    ),
    dict(
        type=RefCOCO,
        instances=data_root + "refcoco+/instances.json",
        refs=data_root + "refcoco+/refs(unc).p",
        image_folder=data_root + "train2014",
        path_mapping=path_mapping,
    ),
    dict(
        type=RefCOCO,
        instances=data_root + "refcocog/instances.json",
        refs=data_root + "refcocog/refs(umd).p",
        image_folder=data_root + "train2014",
        path_mapping=path_mapping,
    ),
]

train_dataset = dict(
    type=GroundingDataset,
    sources=datasets_list,
    tokenizer=tokenizer,
    image_processor=image_processor,
    template=prompt_template,
    prompt=prompt,
    max_length=max_length,
    picture_size=picture_size if sam_checkpoint else None,
    cache=cache,
)

train_dataloader = dict(
    batch_size=batch_size,
    num_workers=dataloader_num_workers,
    dataset=train_dataset,
)

val_dataloader = None  # `inlay eval refcoco` and `inlay eval png` measure
