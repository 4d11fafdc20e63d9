"""An order of samples in which neighbours are of similar length."""

from __future__ import annotations

import numpy as np

from inlay.core.errors import ConfigError, did_you_mean

PROPERTIES = ("length", "modality_length")
_MOST = 50  # batches that are sorted together
_LEAST = 4  # mega-batches that an epoch should have


class LengthGroupedSampler:
    """Sorts by length within stretches of a random order, so that a batch holds equal lengths.

    The epoch's permutation is cut into mega-batches of ``mega_batch_mult`` batches, each sorted
    longest first; the longest sample of all opens the epoch, so that a run that does not fit into
    memory fails at once. As XTuner's sampler, but every sample comes once: none is added to fill
    the last batch, and what does not fill a mega-batch comes at the end.

    Args:
        length_property: ``"length"``, or ``"modality_length"``: mega-batches hold either samples
            with pictures or samples without.
        per_device_batch_size: samples of one device's batch.
        mega_batch_mult: batches of all devices in a mega-batch; None: 50, or fewer where an epoch
            would have less than four.

    Raises:
        ConfigError: an unknown property, or sizes below 1.
    """

    def __init__(
        self,
        length_property: str = "length",
        per_device_batch_size: int = 1,
        mega_batch_mult: int | None = None,
    ) -> None:
        if length_property not in PROPERTIES:
            hint = did_you_mean(str(length_property), PROPERTIES)
            raise ConfigError(
                f"length_property must be one of {', '.join(PROPERTIES)}, got "
                f"{length_property!r}.{hint}"
            )
        for name, value in (
            ("per_device_batch_size", per_device_batch_size),
            ("mega_batch_mult", mega_batch_mult),
        ):
            if value is not None and value < 1:
                raise ConfigError(f"{name} must be 1 or more, got {value}")
        self.length_property = length_property
        self.per_device_batch_size = per_device_batch_size
        self.mega_batch_mult = mega_batch_mult

    def order(
        self, lengths: np.ndarray, has_image: np.ndarray, seed: int, epoch: int, world_size: int
    ) -> np.ndarray:
        """Return int64 ``[N]``, a permutation: the order of one epoch.

        Args:
            lengths: int ``[N]`` tokens per sample.
            has_image: bool ``[N]``; used with ``"modality_length"``.
            world_size: devices; with ``per_device_batch_size`` it decides the size of mega-batches.
        """
        lengths = np.asarray(lengths)
        if not len(lengths):
            return np.empty(0, np.int64)
        batch = self.per_device_batch_size * world_size
        most = min(len(lengths) // (batch * _LEAST), _MOST) or 1
        size = batch * (self.mega_batch_mult or most)
        random = np.random.default_rng([seed, epoch])
        kinds = [np.arange(len(lengths))]
        if self.length_property == "modality_length":
            kinds = [np.flatnonzero(has_image), np.flatnonzero(~np.asarray(has_image, bool))]
        full: list[np.ndarray] = []
        rest: list[np.ndarray] = []
        for samples in kinds:
            samples = random.permutation(samples)
            for start in range(0, len(samples), size):
                mega = samples[start : start + size]
                mega = mega[np.argsort(-lengths[mega], kind="stable")]
                (full if len(mega) == size else rest).append(mega)
        full = [full[i] for i in random.permutation(len(full)).tolist()]
        full.sort(key=lambda mega: lengths[mega[0]] < lengths.max())  # stable: that one comes first
        order = np.concatenate(full + rest)
        longest = int(np.argmax(lengths[order]))
        order[[0, longest]] = order[[longest, 0]]
        return order
