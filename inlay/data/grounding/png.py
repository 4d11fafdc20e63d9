"""Panoptic narrative grounding: long captions whose nouns are linked to panoptic segments.

Gonzalez et al., Panoptic Narrative Grounding (arXiv 2109.04988).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from inlay.core.errors import ConfigError, DataError
from inlay.data.grounding.files import PictureFiles, storage_or_folder
from inlay.data.grounding.source import (
    Entry,
    GroundingSource,
    Words,
    by_id,
    files_fingerprint,
    load_json,
    size_of,
)
from inlay.data.json_rows import Row
from inlay.data.report import Dropped


@dataclass(frozen=True)
class Phrase:
    """A phrase of a narrative and the segments that it names.

    Attributes:
        segments: ids in the panoptic map.
        plural: it names several things.
        thing: it names things, not stuff; the original counts every plural as things.
    """

    segments: tuple[int, ...]
    plural: bool
    thing: bool


@dataclass(frozen=True)
class Narrative(Entry):
    """A caption in pieces.

    Attributes:
        panoptic: name of the file of its panoptic map.
        words: its pieces, each with the number of its phrase or -1.
        phrases: those with a mask.
    """

    panoptic: str
    words: tuple[Words, ...]
    phrases: tuple[Phrase, ...]


class PNG(GroundingSource):
    """One entry for each narrative that has a mask; the others are left out and counted.

    Args:
        json_file: a list of narratives ``{image_id, segments: [{utterance, segment_ids,
            plural}]}``.
        panoptic_json_file: COCO's panoptic annotations of the pictures.
        panoptic_png_path: folder of their maps, PNG files with ids ``R + 256 G + 65536 B``.
        image_folder: folder of the pictures; ``local_path`` is its name in F-LMM's configs.
        ceph_path: folder of the pictures in object storage, taken before the local one where its
            client is installed.
        weight, repeat: share of an epoch, see ``inlay.data.sources.Source``.

    Raises:
        ConfigError: there is no folder of pictures, or there are two.
        DataError: a file is missing or malformed.
    """

    def __init__(
        self,
        json_file: str | Path,
        panoptic_json_file: str | Path,
        panoptic_png_path: str | Path,
        image_folder: str | Path | None = None,
        *,
        local_path: str | Path | None = None,
        ceph_path: str | None = None,
        weight: float | None = None,
        repeat: float = 1,
    ) -> None:
        if image_folder is not None and local_path is not None:
            raise ConfigError("image_folder and local_path are two names of one folder: give one")
        folder = storage_or_folder(ceph_path, image_folder or local_path)
        if folder is None:
            raise ConfigError("PNG needs a folder of pictures: image_folder (or ceph_path)")
        super().__init__(str(json_file), PictureFiles(folder), weight, repeat)
        self._made_of = (json_file, panoptic_json_file)
        if not Path(panoptic_png_path).expanduser().is_dir():
            raise DataError(f"panoptic_png_path: there is no folder '{panoptic_png_path}'")
        self.maps = PictureFiles(panoptic_png_path)
        self._panoptic = _Panoptic(panoptic_json_file)
        narratives = self._read(load_json(json_file, "narratives of PNG"), str(json_file))
        del self._panoptic
        self._narratives: Sequence[Narrative] = narratives
        self._take(narratives, [len(n.phrases) for n in narratives], [1] * len(narratives))

    def pieces(self, index: int, epoch: int = 0) -> list[Words]:
        """Return the utterances, the same in every epoch."""
        return list(self._narratives[index].words)

    def phrases(self, index: int) -> tuple[Phrase, ...]:
        """Return what kind of phrase each mask belongs to."""
        return self._narratives[index].phrases

    def masks(self, index: int) -> np.ndarray:
        """Return uint8 ``[M, H, W]``: for each phrase the union of its segments.

        Raises:
            DataError: the panoptic map cannot be read, has another size, or lacks a segment.
        """
        entry = self._narratives[index]
        image = self.maps.open(entry.panoptic, entry.place)
        if image.size != entry.size:
            raise DataError(
                f"{entry.place}: the panoptic map '{entry.panoptic}' is {image.width} x "
                f"{image.height} px, its picture {entry.size[0]} x {entry.size[1]} px"
            )
        red, green, blue = (np.asarray(channel).astype(np.int32) for channel in image.split())
        ids = red + 256 * green + 65536 * blue
        found = np.zeros((len(entry.phrases), *ids.shape), np.uint8)
        for mask, phrase in zip(found, entry.phrases, strict=True):
            for number in phrase.segments:
                mask |= ids == number
            if not mask.any():
                raise DataError(
                    f"{entry.place}: an empty mask: the panoptic map '{entry.panoptic}' has none "
                    f"of the segments {list(phrase.segments)}"
                )
        return found

    def content(self) -> str:
        """Fingerprint of narratives and panoptic annotations."""
        return files_fingerprint(self._made_of)

    def _read(self, rows: Any, file: str) -> list[Narrative]:
        if not isinstance(rows, list):
            raise DataError(f"'{file}': expected a list of narratives, found {type(rows).__name__}")
        found = []
        for line, value in enumerate(rows, 1):
            self.report.rows += 1
            with self.report.losing(Row(file, line, value)):
                found.append(self._narrative(value, file, line))
                self.report.kept += 1
        return found

    def _narrative(self, value: Any, file: str, line: int) -> Narrative:
        try:
            number, segments = int(value["image_id"]), list(value["segments"])
            words: list[Words] = []
            phrases: list[Phrase] = []
            for segment in segments:
                text, ids = segment["utterance"], [int(i) for i in segment["segment_ids"]]
                if not isinstance(text, str) or (ids and not text.strip()):
                    raise DataError(f"the phrase of the segments {ids} has no text: {text!r}")
                words.append((text, len(phrases) if ids else -1))
                if ids:
                    phrases.append(self._panoptic.phrase(number, ids, bool(segment["plural"])))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DataError(f"not a narrative of PNG: {error!r}") from None
        if not phrases:
            raise Dropped("narratives without a mask")
        image, panoptic = self._panoptic.files(number)
        where = f"{file}, row {line}"
        self.files.check(image["file_name"], where)
        self.maps.check(panoptic, where)
        return Narrative(
            image["file_name"], size_of(image), file, line, panoptic, tuple(words), tuple(phrases)
        )


class _Panoptic:
    """COCO's panoptic annotations by picture."""

    def __init__(self, path: str | Path) -> None:
        found = load_json(path, "panoptic annotations of PNG")
        self.path = path
        self.images = by_id(found, "images", path)
        self.things = {
            k: bool(v.get("isthing")) for k, v in by_id(found, "categories", path).items()
        }
        try:
            self.maps = {a["image_id"]: a["file_name"] for a in found["annotations"]}
            self.segments = {
                a["image_id"]: {s["id"]: s["category_id"] for s in a["segments_info"]}
                for a in found["annotations"]
            }
        except (KeyError, TypeError) as error:
            raise DataError(f"'{path}': not COCO's panoptic annotations: {error!r}") from None

    def files(self, image: int) -> tuple[dict[str, Any], str]:
        """Return a picture and the name of its map.

        Raises:
            DataError: it has none.
        """
        if image not in self.images or image not in self.maps:
            raise DataError(f"there is no picture {image} with a panoptic map in {self.path}")
        return self.images[image], self.maps[image]

    def phrase(self, image: int, ids: list[int], plural: bool) -> Phrase:
        """Return the phrase that names segments of a picture.

        Raises:
            DataError: the picture has no such segment.
        """
        self.files(image)
        known = self.segments[image]
        missing = [i for i in ids if i not in known]
        if missing:
            raise DataError(f"picture {image} has no panoptic segment {missing} in {self.path}")
        things = [self.things.get(known[i], False) for i in ids]
        return Phrase(tuple(ids), plural, plural or any(things))
