"""Eager attention as the reference of captured rows, and the tokens of a row to look at."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from sights import IMAGE

from inlay.models.grounding.capture import Grounded

Documents = Sequence[Sequence[int]]


def look_at(
    documents: Documents, words: Sequence[Sequence[Sequence[int]]], merge: str = "mean"
) -> Grounded:
    """Tokens of a flat row: ``words[d]`` lists for each mask of document d its places there.

    Of each document the last token is looked at as well, without a mask; a mask's image tokens are
    all of its document.
    """
    starts = [0]
    for ids in documents:
        starts.append(starts[-1] + len(ids))
    rows, masks, columns = [], [], []
    for (start, stop), ids, named in zip(pairwise(starts), documents, words, strict=True):
        for places in named:
            rows += [start + place for place in places]
            masks += [len(columns)] * len(places)
            columns.append([start + i for i, token in enumerate(ids) if token == IMAGE])
        rows.append(stop - 1)
        masks.append(-1)
    longest = max(map(len, columns))
    table = [own + [-1] * (longest - len(own)) for own in columns]
    return Grounded(
        batch=torch.zeros(len(rows)).long(),
        rows=torch.tensor(rows),
        masks=torch.tensor(masks),
        columns=torch.tensor(table),
        merge=merge,
    )


def eager_maps(
    attentions: Sequence[torch.Tensor], places: Sequence[int], columns: Sequence[int], merge: str
) -> torch.Tensor:
    """Maps ``[L * H, K]`` of one mask from eager attentions ``[1, H, N, N]``, by the letter."""
    maps = []
    for layer in attentions:
        for head in layer[0]:
            rows = torch.stack([head[place] for place in places])
            one = rows.mean(0) if merge == "mean" else rows.max(0).values
            maps.append(one[list(columns)])
    return torch.stack(maps)


def expected(
    outputs: Sequence[Any], documents: Documents, words: Any, merge: str = "mean"
) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Maps of each mask (as many columns as it has) and hidden rows of all looked at tokens.

    Args:
        outputs: of each document alone: eager, with attentions and hidden states.
    """
    maps, hidden = [], []
    for out, ids, named in zip(outputs, documents, words, strict=True):
        columns = [i for i, token in enumerate(ids) if token == IMAGE]
        maps += [eager_maps(out.attentions, places, columns, merge) for places in named]
        places = [place for each in named for place in each] + [len(ids) - 1]
        layers = out.hidden_states[-len(out.attentions) :]
        hidden.append(torch.stack([layer[0, places] for layer in layers]))
    return maps, torch.cat(hidden, dim=1)


def assert_seen(seen: Any, maps: list[torch.Tensor], hidden: torch.Tensor) -> None:
    """Hold what was captured against the reference."""
    assert seen.maps.dtype == torch.float32 and len(seen.maps) == len(maps)
    for found, wanted in zip(seen.maps, maps, strict=True):
        width = wanted.shape[1]
        torch.testing.assert_close(found[:, :width], wanted.float(), atol=1e-5, rtol=0)
        assert not found[:, width:].any()
    torch.testing.assert_close(seen.hidden, hidden, atol=1e-5, rtol=1e-5)
