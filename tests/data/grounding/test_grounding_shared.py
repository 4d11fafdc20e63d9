"""Real RefCOCO and PNG material: all of it is read, masks are pycocotools' own."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco

from inlay.data import PNG, GroundingDataset, RefCOCO
from inlay.data.grounding.masks import compress, union
from inlay.data.grounding.pickles import load_pickle

pytestmark = pytest.mark.shared


@pytest.fixture(scope="module")
def folder(shared_data):
    return shared_data / "grounding" / "refcoco"


@pytest.fixture(scope="module")
def instances(folder):
    found = json.loads((folder / "instances.json").read_text())
    images = {image["id"]: image for image in found["images"]}
    return images, {annotation["id"]: annotation for annotation in found["annotations"]}


def refcoco(folder, split, **options):
    files = folder / "instances.json", folder / "refs(real).p", folder / "images"
    return RefCOCO(*files, split=split, **options)


def own_decode(annotation, image):
    """As pycocotools' ``COCO.annToMask``."""
    height, width = image["height"], image["width"]
    segmentation = annotation["segmentation"]
    if isinstance(segmentation, list):
        rle = coco.merge(coco.frPyObjects(segmentation, height, width))
    elif isinstance(segmentation["counts"], list):
        rle = coco.frPyObjects(segmentation, height, width)
    else:
        rle = segmentation
    return coco.decode(rle)


def test_the_pickle_is_the_json(folder):
    assert load_pickle(folder / "refs(real).p") == json.loads((folder / "refs.json").read_text())


def test_every_reference_has_its_mask(folder, instances):
    images, annotations = instances
    refs = {ref["ref_id"]: ref for ref in json.loads((folder / "refs.json").read_text())}
    seen = []
    for split, count in (("train", 47), ("val", 12)):
        source = refcoco(folder, split)
        assert (source.report.rows, source.report.kept, source.report.bad) == (count, count, 0)
        assert source.num_masks.sum() == count
        for picture in source.expressions():
            for reference in picture.references:
                ref = refs[reference.ref_id]
                assert ref["image_id"] == picture.image_id
                expected = own_decode(annotations[ref["ann_id"]], images[ref["image_id"]])
                assert np.array_equal(reference.mask(), expected)
                assert expected.any()
                raw = tuple(sentence["raw"].lower() for sentence in ref["sentences"])
                assert reference.sentences == raw
                seen.append(reference.ref_id)
        for index in range(len(source)):
            assert len(source.masks(index)) == source.num_masks[index]
            assert source.image(index).size == source.entries[index].size
    assert sorted(seen) == list(range(59))


def test_every_annotation_is_read(instances):
    images, annotations = instances
    kinds = Counter()
    for annotation in annotations.values():
        image = images[annotation["image_id"]]
        size = image["width"], image["height"]
        found = union([compress(annotation["segmentation"], size)], size)
        assert np.array_equal(found, own_decode(annotation, image))
        kinds[type(annotation["segmentation"]).__name__, annotation["iscrowd"]] += 1
        if "segmentation_rle_exact" in annotation:
            rle = annotation["segmentation_rle_exact"]
            assert np.array_equal(union([compress(rle, size)], size), coco.decode(rle))
            kinds["compressed"] += 1
    assert kinds == {("list", 0): 595, ("dict", 1): 5, "compressed": kinds["compressed"]}
    assert kinds["compressed"] > 0


def test_narratives(shared_data):
    png = shared_data / "grounding" / "png"
    files = png / "narratives.json", png / "panoptic.json", png / "panoptic", png / "images"
    source = PNG(*files)
    rows = json.loads(files[0].read_text())
    assert len(source) == len(rows) == 42
    assert source.report.bad == 0
    areas = {
        (a["image_id"], s["id"]): s["area"]
        for a in json.loads(files[1].read_text())["annotations"]
        for s in a["segments_info"]
    }
    plural = 0
    for index, row in enumerate(rows):
        named = [s for s in row["segments"] if s["segment_ids"]]
        assert "".join(text for text, _ in source.pieces(index)) == "".join(
            s["utterance"] for s in row["segments"]
        )
        masks = source.masks(index)
        assert (
            masks.shape[1:] == Image.open(png / "images" / source.entries[index].image).size[::-1]
        )
        for segment, mask, phrase in zip(named, masks, source.phrases(index), strict=True):
            ids = {int(i) for i in segment["segment_ids"]}
            assert mask.sum() == sum(areas[int(row["image_id"]), i] for i in ids)
            assert phrase.plural == segment["plural"]
            plural += phrase.plural
    assert plural == 33


def test_an_epoch_of_batches(shared_data, folder, tokenizer, seeing):
    png = shared_data / "grounding" / "png"
    files = png / "narratives.json", png / "panoptic.json", png / "panoptic", png / "images"
    sources = [refcoco(folder, "train"), PNG(*files)]
    dataset = GroundingDataset(
        sources, tokenizer, seeing(tokenizer), template="vicuna", picture_size=64, max_length=2048
    )
    assert dataset.loss_units.sum() == 47 + 92
    for start in range(0, len(dataset), 8):
        numbers = range(start, min(start + 8, len(dataset)))
        batch = dataset.collate([dataset.item(i, 0) for i in numbers])
        assert batch.loss_units == dataset.loss_units[numbers.start : numbers.stop].sum()
        assert int(batch.inputs["caption_masks"].max()) == batch.loss_units - 1
