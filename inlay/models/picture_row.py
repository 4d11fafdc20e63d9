"""A flat row of documents with their pictures: which picture belongs where."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

import torch

from inlay.core.errors import ModelError
from inlay.models.families import Family


@dataclass(frozen=True)
class Document:
    """Tokens ``[start, stop)`` of the row and its pictures ``[first, last)``."""

    start: int
    stop: int
    first: int
    last: int


class Pictures:
    """The pictures of a row as the batch carries them, joined along their first axis.

    Args:
        images: ``pixel_values`` with one or several rows (patches, tiles) for each picture, as
            many as ``num_rows`` int64 ``[I]`` says; ``num_tokens`` int64 ``[I]``, the image tokens
            of each; what else the model takes, with as many rows as ``pixel_values`` or one per
            picture.
    """

    def __init__(self, images: dict[str, torch.Tensor]) -> None:
        self.tensors = dict(images)
        self.rows = self.tensors.pop("num_rows").tolist()
        self.tokens = self.tensors.pop("num_tokens").tolist()

    def inputs(self, family: Family, dtype: torch.dtype, first: int, last: int) -> dict[str, Any]:
        """Return pictures ``[first, last)`` as keyword arguments of the model, pixels cast."""
        before = [0, *accumulate(self.rows)]
        start, stop = before[first], before[last]
        inputs: dict[str, Any] = {}
        for name, tensor in self.tensors.items():
            part = tensor[first:last] if len(tensor) == len(self.rows) else tensor[start:stop]
            part = part.to(dtype) if part.is_floating_point() else part
            inputs[name] = part[None] if family.batch_axis else part
        return inputs

    def cuts(self, tokens_before: list[int]) -> list[int]:
        """Return the number of pictures before each place in the row.

        Args:
            tokens_before: image tokens before each place; the last place is the end of the row.

        Raises:
            ModelError: a place lies within a picture.
        """
        pictures = {tokens: i for i, tokens in enumerate(accumulate(self.tokens, initial=0))}
        try:
            return [pictures[count] for count in tokens_before]
        except KeyError:
            raise ModelError(
                f"cannot tell which pictures belong to which document: they need {self.tokens} "
                f"image tokens, and the row has {tokens_before} of them before the documents' "
                "borders. Is the image processor the model's own?"
            ) from None


class PictureRow:
    """Ids, document borders and pictures of one micro-batch.

    Args:
        input_ids: int64 ``[1, N]``.
        doc_starts: int ``[D + 1]`` cumulative document lengths.
        images: see :class:`Pictures`; None for text alone.
        image_positions: int64 ``[K]`` places of image tokens; None without pictures.
    """

    def __init__(
        self,
        input_ids: torch.Tensor,
        doc_starts: torch.Tensor,
        images: dict[str, torch.Tensor] | None,
        image_positions: torch.Tensor | None,
    ) -> None:
        self.input_ids, self.doc_starts = input_ids, doc_starts
        self.pictures = None if images is None else Pictures(images)
        none = doc_starts.new_zeros(0, dtype=torch.int64)
        self.image_positions = none if image_positions is None else image_positions

    @property
    def is_image(self) -> torch.Tensor:
        """bool ``[1, N]``: where image tokens stand."""
        blank = torch.zeros_like(self.input_ids, dtype=torch.bool)
        return blank.index_fill(1, self.image_positions, True)

    def documents(self) -> list[Document]:
        """Return the documents in order (waits for the device)."""
        starts = self.doc_starts.tolist()
        cuts = [0] * len(starts)
        if self.pictures is not None:
            before = torch.searchsorted(self.image_positions, self.doc_starts.long())
            cuts = self.pictures.cuts(before.tolist())
        return [
            Document(*tokens, *pictures)
            for tokens, pictures in zip(pairwise(starts), pairwise(cuts), strict=True)
        ]

    def pixels(
        self, family: Family, dtype: torch.dtype, document: Document | None = None
    ) -> dict[str, Any]:
        """Return the pictures of a document, or of the whole row, as the model takes them."""
        if self.pictures is None:
            return {}
        first, last = (0, len(self.pictures.rows))
        if document is not None:
            first, last = document.first, document.last
        return self.pictures.inputs(family, dtype, first, last) if last > first else {}

    def mrope(self, model: Any) -> torch.Tensor:
        """Return positions int64 ``[3, 1, N]`` (time, height, width), anew in every document.

        Computed on the CPU: the model's ``get_rope_index`` reads its tensors value by value.
        """
        assert self.pictures is not None
        types = self.is_image.long().cpu()
        grids = self.pictures.tensors["image_grid_thw"].cpu()
        positions = [
            model.get_rope_index(
                types[:, d.start : d.stop],  # only shape and device of the ids are read
                mm_token_type_ids=types[:, d.start : d.stop],
                image_grid_thw=grids[d.first : d.last],
            )[0]
            for d in self.documents()
        ]
        return torch.cat(positions, dim=2).to(self.input_ids.device, non_blocking=True)
