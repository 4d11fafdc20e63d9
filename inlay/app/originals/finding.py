"""What a rule finds, and what it looks at."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from inlay.app.originals.packer import Cuts, cut
from inlay.app.originals.settings import Original

UNREAD = "the training data were not read"


@dataclass(frozen=True)
class Finding:
    """One thing that a config would have done in the original and does not do here.

    Attributes:
        name: of the rule, stable, for programs.
        title: what goes wrong, in a few words.
        there, here: what the original does, and what Inlay does instead.
        figures: the numbers in ``there`` and ``here``, by name.
        unknown: why figures are missing, or an empty string.
    """

    name: str
    title: str
    there: str
    here: str
    figures: dict[str, float] = field(default_factory=dict)
    unknown: str = ""


@dataclass(frozen=True)
class Rows:
    """What the original stumbles over in the rows of a data file.

    Attributes:
        two_pictures: messages of a user with two or more ``<image>``.
        unmarked_turns: turns without ``output_with_loss`` in data in which others have it.
        answers: assistant messages of OpenAI rows.
        untexted_loss: those whose ``loss`` is no text, or not there.
        systems: system texts.
    """

    two_pictures: int = 0
    unmarked_turns: int = 0
    answers: int = 0
    untexted_loss: int = 0
    systems: int = 0


@dataclass(frozen=True)
class Data:
    """What was read of a config's training data.

    Attributes:
        lengths: int ``[N]`` tokens of the samples, cut at ``max_length``; None: not read.
        sizes: samples of each source, in the order of ``lengths``; None: of one.
        why: why they were not read.
        trained: int ``[N]`` tokens with a loss of the samples, where they are known.
        has_bos: whether the tokenizer has a BOS token; None: not known.
        rows: of the data files, None where these are not here.
        sentences: of all referring expressions; references: things that they refer to.
    """

    lengths: np.ndarray | None = None
    sizes: list[int] | None = None
    why: str = ""
    trained: np.ndarray | None = None
    has_bos: bool | None = None
    rows: Rows | None = None
    sentences: int = 0
    references: int = 0


@dataclass(frozen=True)
class Case:
    """A config, its data, and what follows from both about the run there."""

    there: Original
    data: Data
    devices: int = 1

    @cached_property
    def cuts(self) -> Cuts | None:
        """What the packer would do; None where nothing is packed, or the data were not read."""
        lengths = self.data.lengths
        if not self.there.packs or lengths is None or not len(lengths):
            return None
        sizes = self.data.sizes or [len(lengths)]
        total = Cuts()
        for part in np.split(lengths, np.cumsum(sizes)[:-1]):  # each source is packed apart
            if self.there.shuffles:  # with a seed of its own: any order is as good as another
                part = np.random.default_rng(0).permutation(part)
            total += cut(part, self.there.max_length, self.there.workers)
        return total

    @cached_property
    def per_epoch(self) -> int | None:
        """Iterations of an epoch there; None where they are not known."""
        if self.data.lengths is None:
            return None
        items = self.cuts.packs if self.cuts else len(self.data.lengths)
        return math.ceil(math.ceil(items / self.devices) / self.there.batch_size)

    @property
    def total(self) -> int | None:
        """Iterations of the run there; None where they are not known."""
        if self.there.max_iters is not None:
            return self.there.max_iters
        if self.per_epoch is None or self.there.max_epochs is None:
            return None
        return int(self.there.max_epochs * self.per_epoch)

    @property
    def unknown(self) -> str:
        """What a figure that needs the data says where there are none."""
        return "" if self.data.lengths is not None else UNREAD
