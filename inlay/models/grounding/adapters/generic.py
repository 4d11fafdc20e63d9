"""Any image-text-to-text model of transformers, and the vision-language models of Inlay."""

from __future__ import annotations

from typing import Any

import torch

from inlay.models.grounding.adapters.base import Adapter
from inlay.models.grounding.capture import (
    Grounded,
    Seen,
    capture,
    require_each_once,
    require_own,
)
from inlay.models.llava import LLaVAModel
from inlay.models.load_vlm import load_vlm
from inlay.models.picture_row import Document, PictureRow
from inlay.models.vlm import VisionFinetune


class GenericAdapter(Adapter):
    """Grounds any model that Inlay can train.

    A family that packs sees the whole row at once; of another one (Gemma 3, PaliGemma, those that
    ``families.py`` does not know) every document is a call of its own with the library's masks.

    Args:
        model: as ``load_vlm`` returns it.
    """

    model: VisionFinetune | LLaVAModel

    def __init__(self, model: VisionFinetune | LLaVAModel) -> None:
        super().__init__(model, model.decoder, image_token_id=model.image_token_id)

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str,
        *,
        dtype: str | torch.dtype = "auto",
        bits: int | None = None,
        device: str | torch.device | None = None,
    ) -> GenericAdapter:
        """Open a model of transformers, LLaVA parts or a nanoVLM folder.

        Args:
            pretrained_model_name_or_path: a folder or a hub name.
            dtype, bits, device: as ``load_vlm`` takes them.

        Raises:
            ModelError: it is none of these, or incomplete.
        """
        return cls(load_vlm(pretrained_model_name_or_path, dtype=dtype, bits=bits, device=device))

    @property
    def decoder(self) -> Any:
        return self.model.decoder

    def run(self, row: dict[str, Any]) -> None:
        self.model.hidden(**row)

    def generate(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        *,
        images: dict[str, torch.Tensor] | None = None,
        image_positions: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> torch.Tensor:
        return self.model.generate(
            input_ids, attention_mask, images=images, image_positions=image_positions, **kwargs
        )

    @torch.no_grad()
    def look(self, row: dict[str, Any], grounded: Grounded) -> Seen:
        model = self.model
        if isinstance(model, LLaVAModel) or model.family.packs:
            return super().look(row, grounded)
        pictures = PictureRow(
            row["input_ids"], row["doc_starts"], row.get("images"), row.get("image_positions")
        )
        parts = []
        for document in pictures.documents():
            tokens, masks, own = _of_document(grounded, document)
            if len(tokens):
                # Where the prompt sees itself both ways, it ends at the first caption token.
                prompt = int(own.rows.min())
                with capture(self.decoder, own) as seen:
                    model.hidden_alone(pictures, document, prompt)
                parts.append((tokens, masks, seen))
        return _joined(parts, grounded)


Part = tuple[torch.Tensor, torch.Tensor, Seen]
"""What was seen of one document: its tokens among those of the row, its masks likewise."""


def _of_document(
    grounded: Grounded, document: Document
) -> tuple[torch.Tensor, torch.Tensor, Grounded]:
    """The grounded tokens of a document as a sequence of their own.

    Returns:
        Their numbers int64 ``[t]``, their masks' numbers int64 ``[m]``, and the tokens with places
        and mask numbers that start at 0.
    """
    inside = (grounded.rows >= document.start) & (grounded.rows < document.stop)
    tokens = inside.nonzero(as_tuple=True)[0]
    named = grounded.masks[tokens]
    masks = named[named >= 0].unique()
    numbers = torch.where(named >= 0, torch.searchsorted(masks, named), -1)
    columns = grounded.columns[masks]
    require_own(columns, document.start, document.stop)
    own = Grounded(
        batch=torch.zeros_like(tokens),
        rows=grounded.rows[tokens] - document.start,
        masks=numbers,
        columns=torch.where(columns < 0, -1, columns - document.start),
        merge=grounded.merge,
    )
    return tokens, masks, own


def _joined(parts: list[Part], grounded: Grounded) -> Seen:
    require_each_once([masks for _, masks, _ in parts], len(grounded.columns))
    first = parts[0][2]
    _, channels, columns = first.maps.shape
    layers, _, width = first.hidden.shape
    maps = first.maps.new_zeros(len(grounded.columns), channels, columns)
    hidden = first.hidden.new_zeros(layers, len(grounded.rows), width)
    for tokens, masks, seen in parts:
        maps[masks.to(maps.device)] = seen.maps
        hidden[:, tokens.to(maps.device)] = seen.hidden
    return Seen(maps, hidden, first.layers)
