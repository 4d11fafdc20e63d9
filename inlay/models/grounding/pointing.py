"""Masks from a frozen model without any training: its localisation heads point.

After "Your Large Vision-Language Model Only Needs A Few Attention Heads For Visual Grounding" (Kang
et al., CVPR 2025, arXiv 2503.06287): of the heads that look at the picture at all, those whose
attention falls on one place show where a phrase is. Added here: heads that look at the same place
whatever the phrase, or at one token of the border (attention sinks), do not count.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from inlay.models.grounding.mask_head import enlarge

VOTES = 10
"""Heads that each phrase votes for (section 4 of the paper)."""

MIN_VARIATION = 0.05
"""Total variation between phrases of one picture below which a head does not heed the words."""

FINE_GRID = 12
"""Tokens along the shorter side from which one of them is too little for an object: attention that
one token of the border holds is then a sink."""

SIGMA = 1 / 24
"""Of the smoothing, in longest sides of the map: one token of LLaVA's 24 x 24, as in the paper."""

CONTRAST = 10.0
"""Largest magnitude of the logits."""


def pick_heads(
    samples: Sequence[torch.Tensor], *, num_heads: int = 3, skip: int = 0, levels: int = 1
) -> tuple[int, ...]:
    """Return the localisation heads, best first.

    Heads are kept whose attention to the picture reaches the elbow of all heads' sorted sums. Each
    phrase votes for the ``VOTES`` of them with the lowest spatial entropy; the heads with most
    votes win, then those with the lowest mean entropy, then those with the largest sum.

    Args:
        samples: one ``[M, C * levels, h, w]`` per picture, the attention of its ``M`` phrases (see
            ``maps.assemble``); ``C = layers x heads``. More phrases give a safer choice.
        num_heads: at most so many; the paper finds that three are enough.
        skip: heads of the first layers that are left out (two layers in the paper), less than C.
        levels: maps of one head, coarse and fine; their mean counts.

    Returns:
        Numbers of heads (``layer x heads per layer + head``); none where no head looks anywhere.
    """
    maps = [_merge_levels(sample, levels) for sample in samples]
    sums_C = torch.cat([m.sum((-2, -1)) for m in maps]).mean(0)
    candidates = _above_elbow(sums_C, skip)
    maps = [m[:, candidates] for m in maps]
    entropy_MC = torch.cat([spatial_entropy(m).masked_fill(_sinks(m), torch.inf) for m in maps])
    ignored_C = _ignores_words(maps)
    if not (ignored_C | entropy_MC.isinf().all(0)).all():  # else: all phrases mean one thing
        entropy_MC = entropy_MC.masked_fill(ignored_C, torch.inf)
    ranks = entropy_MC.argsort(dim=1, stable=True).argsort(dim=1)
    votes = ((ranks < VOTES) & entropy_MC.isfinite()).sum(0).tolist()
    scatter = entropy_MC.nan_to_num(posinf=1e4).mean(0).tolist()
    order = sorted(range(len(votes)), key=lambda c: (-votes[c], round(scatter[c], 4)))
    heads = candidates.tolist()
    return tuple(heads[c] for c in order if votes[c])[:num_heads]


def point(
    maps_MCHW: torch.Tensor, heads: Sequence[int], *, levels: int = 1, side: int = 64
) -> torch.Tensor:
    """Return mask logits, float32 ``[M, h', w']``, within ``[-CONTRAST, CONTRAST]``.

    The heads' maps, each of sum 1, are averaged, smoothed and enlarged as for the mask head; Otsu's
    threshold is the logit 0.

    Args:
        maps_MCHW: ``[M, C * levels, h, w]`` attention of the phrases.
        heads: what ``pick_heads`` returned. Without heads, or where they see nothing, a mask is
            empty: all its logits are ``-CONTRAST``.
        levels: as for ``pick_heads``.
        side: pixels of the longest side of the result, at least.
    """
    chosen = _merge_levels(maps_MCHW, levels)[:, list(heads)]
    chosen = chosen / chosen.sum((-2, -1), keepdim=True).clamp(min=1e-12)
    shown = chosen.sum(1, keepdim=True) / max(len(heads), 1)
    shown = enlarge(_smooth(shown), side)[:, 0]
    values = shown.flatten(1)
    threshold = otsu(values)[:, None]
    low, high = values.amin(1, keepdim=True), values.amax(1, keepdim=True)
    reach = torch.maximum(high - threshold, threshold - low)
    logits = CONTRAST * (values - threshold) / reach.clamp(min=1e-12)
    flat = high <= low * (1 + 1e-4) + 1e-12
    return logits.masked_fill(flat, -CONTRAST).view_as(shown)


def spatial_entropy(maps: torch.Tensor) -> torch.Tensor:
    """Return how scattered each map is: the entropy (nats) of the sizes of its bright regions.

    Bright is what exceeds the map's mean; regions are 8-connected. One region gives 0, a map
    without any, infinity.

    Args:
        maps: ``[M, C, h, w]``.

    Returns:
        Float32 ``[M, C]``.
    """
    mean = maps.mean((-2, -1), keepdim=True)
    bright = (maps > mean * (1 + 1e-4) + 1e-12).flatten(0, 1)
    labels = _regions(bright).flatten(1)
    sizes = labels.new_zeros(len(labels), labels.shape[1] + 1, dtype=torch.float32)
    sizes.scatter_add_(1, labels, torch.ones_like(labels, dtype=torch.float32))
    sizes = sizes[:, 1:]  # 0 is the dark
    total = sizes.sum(1, keepdim=True)
    entropy = torch.special.entr(sizes / total.clamp(min=1)).sum(1)
    return entropy.masked_fill(total[:, 0] == 0, torch.inf).view(maps.shape[:2])


def otsu(values: torch.Tensor) -> torch.Tensor:
    """Return the threshold ``[M]`` that parts each row of ``[M, N]`` into the two tightest groups.

    N. Otsu, "A threshold selection method from gray-level histograms" (1979), without a histogram:
    every gap between sorted values is tried. A row of equal values gives that value.
    """
    ordered = values.sort(1).values.double()
    n = ordered.shape[1]
    below = torch.arange(1, n, device=values.device)
    lower = ordered.cumsum(1)[:, :-1]
    upper = ordered.sum(1, keepdim=True) - lower
    between = below * (n - below) * (lower / below - upper / (n - below)) ** 2
    best = between.argmax(1, keepdim=True)
    return (ordered.gather(1, best) + ordered.gather(1, best + 1))[:, 0].float() / 2


def _merge_levels(maps: torch.Tensor, levels: int) -> torch.Tensor:
    return maps.detach().float().unflatten(1, (levels, -1)).mean(1)


def _above_elbow(sums_C: torch.Tensor, skip: int) -> torch.Tensor:
    """Heads from ``skip`` on whose sum reaches the elbow, the greatest first: the elbow is where
    the ascending curve of sums lies farthest below the chord between its ends."""
    curve, heads = sums_C[skip:].sort(stable=True)
    chord = torch.lerp(curve[0], curve[-1], torch.linspace(0, 1, len(curve), device=curve.device))
    elbow = curve[(chord - curve).argmax()]
    return skip + heads[curve >= elbow].flip(0)


def _sinks(maps: torch.Tensor) -> torch.Tensor:
    """bool ``[M, C]``: one token of a fine grid's border holds more than half of the attention."""
    if min(maps.shape[-2:]) < FINE_GRID:
        return torch.zeros(maps.shape[:2], dtype=torch.bool, device=maps.device)
    inside = torch.zeros_like(maps[0, 0], dtype=torch.bool)
    inside[1:-1, 1:-1] = True
    return maps.masked_fill(inside, 0).amax((-2, -1)) > 0.5 * maps.sum((-2, -1))


def _ignores_words(maps: Sequence[torch.Tensor]) -> torch.Tensor:
    """bool ``[C]``: the head's maps hardly differ between the phrases of a picture."""
    variations = []
    for m in maps:
        if len(m) > 1:
            share = m / m.sum((-2, -1), keepdim=True).clamp(min=1e-12)
            variations.append((share - share.mean(0)).abs().sum((-2, -1)).mean(0) / 2)
    if not variations:
        return torch.zeros(maps[0].shape[1], dtype=torch.bool, device=maps[0].device)
    return torch.stack(variations).mean(0) < MIN_VARIATION


def _regions(bright: torch.Tensor) -> torch.Tensor:
    """Label the 8-connected regions of bool ``[N, h, w]`` with numbers from 1; 0 elsewhere."""
    h, w = bright.shape[-2:]
    numbers = torch.arange(1, h * w + 1, device=bright.device).view(h, w)
    labels = (bright * numbers).float()
    while True:  # the largest number of a region floods it
        spread = F.max_pool2d(labels, 3, stride=1, padding=1) * bright
        if torch.equal(spread, labels):
            return labels.long()
        labels = spread


def _smooth(maps: torch.Tensor) -> torch.Tensor:
    """Blur ``[M, 1, h, w]`` with a Gaussian of three sigmas to each side; borders are repeated."""
    sigma = SIGMA * max(maps.shape[-2:])
    reach = max(1, round(3 * sigma))
    x = torch.arange(-reach, reach + 1, device=maps.device, dtype=torch.float32)
    kernel = torch.exp(-0.5 * (x / sigma) ** 2)
    kernel = kernel / kernel.sum()
    padded = F.pad(maps, (reach, reach, reach, reach), mode="replicate")
    return F.conv2d(F.conv2d(padded, kernel.view(1, 1, 1, -1)), kernel.view(1, 1, -1, 1))
