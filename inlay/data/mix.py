"""Which samples of which source make up an epoch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from inlay.data.sources import Source


def mix(available: Sequence[np.ndarray], sources: Sequence[Source], seed: int) -> np.ndarray:
    """Return the samples of one epoch, the same in every epoch.

    ``repeat`` gives a source's samples that many times; with weights the epoch has as many samples
    as all sources together, shared out by weight. A broken number takes a seeded part of the
    source once more.

    Args:
        available: per source, int64 sample numbers.

    Returns:
        int64 sample numbers, source after source.
    """
    total = sum(map(len, available))
    weights = sum(source.weight or 0 for source in sources)
    parts = []
    for number, (samples, source) in enumerate(zip(available, sources, strict=True)):
        if source.weight is not None:
            wanted = round(total * source.weight / weights)
        else:
            wanted = round(len(samples) * source.repeat)
        whole, rest = divmod(wanted, max(len(samples), 1))
        extra = np.random.default_rng([seed, number]).permutation(len(samples))[:rest]
        parts += [samples] * whole + [samples[np.sort(extra)]]
    return np.concatenate(parts)
