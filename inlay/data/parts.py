"""How much of the data a data set has: a side of a split, samples and items up to a limit."""

from __future__ import annotations

from inlay.core.errors import ConfigError, DataError, did_you_mean

PARTS = ("train", "val", "all")


class Split:
    """Which part of the data a data set has.

    Args:
        part: a name in ``PARTS``.
        val_fraction: share that is held out, in [0, 1).
        val_size: or the number of samples.

    Attributes:
        part: as above.
        fraction, size: the one that is given; the other is None.

    Raises:
        ConfigError: an argument out of range, or both.
        DataError: the validation part of a split that holds nothing out.
    """

    def __init__(self, part: str, val_fraction: float = 0.0, val_size: int | None = None) -> None:
        if part not in PARTS:
            hint = did_you_mean(str(part), PARTS)
            raise ConfigError(f"part must be one of {', '.join(PARTS)}, got {part!r}.{hint}")
        if not 0 <= val_fraction < 1:
            raise ConfigError(f"val_fraction must be in [0, 1), got {val_fraction}")
        if val_size is not None and val_size < 0:
            raise ConfigError(f"val_size must be 0 or more samples, got {val_size}")
        if val_fraction and val_size:
            raise ConfigError(
                f"val_fraction={val_fraction} and val_size={val_size} both say how much is held "
                "out: give one of them"
            )
        self.part = part
        self.size = val_size or None
        self.fraction = val_fraction if self.size is None else None
        if part == "val" and not self.fraction and not self.size:
            raise DataError("the val side of the split is empty: val_fraction is 0")

    @property
    def is_whole(self) -> bool:
        """Whether nothing is left out."""
        return self.part == "all" or not (self.fraction or self.size)

    def __str__(self) -> str:
        return f"val_size={self.size}" if self.size else f"val_fraction={self.fraction}"


def sample_length(max_length: int, max_sample_length: int | None) -> int:
    """Return the most tokens of a sample.

    Raises:
        ConfigError: it is more than a pack has.
    """
    if max_sample_length is None:
        return max_length
    if max_sample_length > max_length:
        raise ConfigError(
            f"max_sample_length must be at most max_length ({max_length}), got {max_sample_length}"
        )
    return max_sample_length


def check_max_items(max_items: int | None) -> None:
    """Raise ``ConfigError`` for a number of items that cannot be."""
    if max_items is not None and max_items < 1:
        raise ConfigError(f"max_items must be 1 or more, or None for all, got {max_items}")
