"""The contracts between the floors. ``data``, ``models`` and ``engine`` meet here and nowhere else.

``row -> Conversation -> Sample -> item (a sample, or a pack of them) -> Batch -> StepOutput``

A picture's way: an ``ImageRef`` in the conversation, an ``IMAGE_MARK`` in the text of a message, an
``ImagePlan`` (its tokens) in the sample, ``Pixels`` in the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import numpy as np
    import torch
    from PIL.Image import Image

IGNORE_INDEX = -100
"""Label of a token that is not trained (the value that ``torch`` ignores by default)."""

IMAGE_MARK = "\ue0a4"
"""Stands in a message's text where a picture belongs: a private-use character, no text has it."""


@dataclass(slots=True)
class ImageRef:
    """A picture of a row; nothing is decoded yet.

    Attributes:
        path: its file, as the row names it, or absolute once it is resolved; None for ``data``.
        data: an encoded picture (JPEG, PNG, ...) that came inside the row.
        place: file and line of the row, for messages.
    """

    path: str | None = None
    data: bytes | memoryview | None = None
    place: str = ""


@dataclass(slots=True)
class Message:
    """One turn of a conversation.

    Attributes:
        role: ``"system"``, ``"user"``, ``"assistant"`` or ``"tool"``.
        content: the text of the turn, without any template around it; ``IMAGE_MARK`` where a
            picture belongs.
        trained: whether the loss covers this turn; only an assistant turn can be trained.
    """

    role: str
    content: str
    trained: bool = False


@dataclass(slots=True)
class Conversation:
    """A chat, or, with ``text``, one plain document for continued pre-training.

    Attributes:
        images: its pictures, in the order of the ``IMAGE_MARK`` in the messages (or in ``text``):
            one each.
    """

    messages: list[Message] = field(default_factory=list)
    text: str | None = None
    images: list[ImageRef] = field(default_factory=list)


@dataclass(slots=True)
class Sample:
    """A tokenised conversation.

    Attributes:
        ids: int32 ``[N]`` token ids.
        mask: bool ``[N]``, True where the token is *predicted and trained*. ``mask[0]`` is always
            False: nothing precedes the first token. ``mask.sum()`` is the sample's loss units.
        images: its pictures in order; their tokens stand in ``ids``.
        tiles: pictures that the vision encoder sees for them (several per tiled image).
    """

    ids: np.ndarray
    mask: np.ndarray
    images: Sequence[ImageRef] = ()
    tiles: int = 0


@dataclass(frozen=True, slots=True)
class ImagePlan:
    """What one picture becomes in the sequence of tokens, known from its size alone.

    Attributes:
        prefix: ordinary text before it, such as ``"<image: 0>"``; tokenised with the text around.
        ids: its tokens; those equal to ``image_token_id`` are replaced by image features.
        tiles: pictures that the vision encoder sees.
        suffix: ordinary text behind it, likewise.
    """

    prefix: str
    ids: tuple[int, ...]
    tiles: int
    suffix: str = ""


Box = tuple[float, float, float, float]
"""``(left, top, right, bottom)`` in pixels of a picture, y downward."""


@dataclass(frozen=True, slots=True)
class View:
    """A grid of image tokens, and the part of the picture that it shows.

    Attributes:
        start: its first token, counted among the picture's image tokens (those of ``ImagePlan.ids``
            that equal ``image_token_id``).
        height, width: of the grid, in tokens; row by row.
        box: what the grid covers; it reaches outside of the picture where the picture was padded.
        stride: tokens from one row to the next; more than ``width`` where others stand between.
        level: views of one level are tiles of one map; levels are maps of their own, 0 is coarse.
    """

    start: int
    height: int
    width: int
    box: Box
    stride: int
    level: int = 0


@dataclass(frozen=True, slots=True)
class GroundingTarget:
    """One sample of a grounding batch beside its tokens: which picture, where its tokens lie.

    Attributes:
        size: width and height of the picture in px.
        views: of the grounded picture.
        first_token: place of that picture's first image token among its document's image tokens.
        first_mask, num_masks: its masks among those of the batch.
        document: number of its document in the row of tokens; None where the cache has its maps.
        picture_key: fingerprint of the picture; text_key: of picture, tokens and mask ids.
    """

    size: tuple[int, int]
    views: tuple[View, ...]
    first_token: int
    first_mask: int
    num_masks: int
    document: int | None
    picture_key: str
    text_key: str


Pixels = dict[str, "np.ndarray"]
"""A picture as a model's inputs by name; over several pictures each joins along its first axis."""


class ImageProcessor(Protocol):
    """How pictures enter a model: handed to data sets, to the chat and to evaluation.

    Attributes:
        image_token: text of the token that image features replace; removed from users' texts.
        image_token_id: its id; it may lie outside the language model's embedding.
        placeholder: what the tokenizer's chat template writes for ``{"type": "image"}``, or None
            where messages are plain strings (a template that only knows text).
        num_levels: levels of ``views``, the same for every picture: 1, or 2 (coarse and fine).
    """

    image_token: str
    image_token_id: int
    placeholder: str | None
    num_levels: int

    def plan(self, width: int, height: int, index: int = 0, count: int = 1) -> ImagePlan:
        """Return the tokens of picture ``index`` of ``count`` in its conversation; size in px."""
        ...

    def pixels(self, image: Image, seed: int = 0) -> Pixels:
        """Return an RGB picture as model inputs; the same ``image`` and ``seed``, the same bits."""
        ...

    def views(self, width: int, height: int) -> tuple[View, ...]:
        """Return where the image tokens of a picture of this size (px) lie in the picture."""
        ...

    def identity(self) -> str:
        """Fingerprint of everything that decides tokens and pixels; no paths."""
        ...


@dataclass(slots=True)
class Batch:
    """One micro-batch of one device.

    Attributes:
        inputs: keyword arguments of the model's ``forward``. For a language model: one flat row of
            documents, ``input_ids`` int64 ``[1, N]``, ``labels`` int64 ``[1, N]`` (``IGNORE_INDEX``
            where untrained, not shifted), ``position_ids`` int64 ``[1, N]`` restarting at 0 for
            every document, ``doc_starts`` int32 ``[D + 1]`` cumulative document lengths,
            ``trained_positions`` int64 ``[K]`` positions whose *next* token is trained,
            ``longest_document`` in tokens. With pictures also ``images``, a dict of tensors (see
            ``Pixels``), and ``image_positions`` int64 ``[K]``, where their features go in the row.
            A batch without pictures for a model with eyes ends with an untrained document that
            holds one blank picture, so that every rank runs the vision encoder. Of grounding: see
            ``models.grounding.model.FrozenGrounding.forward``.
        loss_units: number of trained tokens (or masks) in this batch; 0 for a stand-in batch that
            only keeps the ranks in step.
        num_samples: samples (conversations, not packs) in this batch.
        num_tokens: real tokens in this batch (padding and stand-ins excluded).
        num_images: pictures of the samples in this batch.
    """

    inputs: dict[str, Any]
    loss_units: int
    num_samples: int
    num_tokens: int
    num_images: int = 0

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Batch:
        """Return the batch with every tensor of ``inputs`` on ``device``."""
        return self._with(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Batch:
        """Return the batch in page-locked memory (called by torch's DataLoader)."""
        return self._with(lambda tensor: tensor.pin_memory())

    def _with(self, move: Callable[[torch.Tensor], torch.Tensor]) -> Batch:
        return replace(self, inputs=_map_tensors(self.inputs, move))


def _map_tensors(value: Any, move: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    import torch

    if isinstance(value, dict):
        return {key: _map_tensors(inner, move) for key, inner in value.items()}
    if isinstance(value, list):
        return [_map_tensors(inner, move) for inner in value]
    return move(value) if isinstance(value, torch.Tensor) else value


@dataclass  # without slots: ZeRO-3 looks through vars() of what a module returns
class StepOutput:
    """What a model's ``forward`` returns in training and validation.

    Attributes:
        loss_sum: float32 scalar, the loss *summed* over loss units (nats for a language model).
        loss_units: number of units in ``loss_sum``.
        metrics: further scalars to log, already means over the batch.
    """

    loss_sum: torch.Tensor
    loss_units: int
    metrics: dict[str, torch.Tensor] = field(default_factory=dict)

    def __getitem__(self, name: str) -> torch.Tensor:
        """``"loss"``, the mean over its units, or a metric: as hooks for MMEngine read outputs."""
        return self.loss_sum / max(self.loss_units, 1) if name == "loss" else self.metrics[name]

    def keys(self) -> list[str]:
        """Names for ``[]``; with them ``dict(outputs)`` works."""
        return ["loss", *self.metrics]


@dataclass(slots=True)
class Window:
    """The micro-batches of one optimizer update, on this rank.

    Attributes:
        num_batches: micro-batches in the window, the same on every rank.
        start, stop: positions ``[start, stop)`` in the epoch's permutation of items, all ranks.
        loss_units: trained units of the whole window over all ranks: the loss is divided by it.
        batches: this rank's micro-batches, read lazily.
        hint: what a stream needs to reopen its source near ``stop`` (JSON values); None for
            indexed data, where the position alone is enough.
    """

    num_batches: int
    start: int
    stop: int
    loss_units: int
    batches: Iterator[Batch]
    hint: dict[str, Any] | None = None


class IndexedDataset(Protocol):
    """What the loader asks of a data set. An *item* is one sample, or one pack of samples."""

    def __len__(self) -> int:
        """Number of items in one epoch."""
        ...

    def item(self, index: int, seed: int, epoch: int = 0) -> Any:
        """Return item ``index`` of an epoch. ``seed`` (64 bit) depends on run, epoch and index: the
        only source of randomness that an item may use, so that workers and resume give the same
        bits."""
        ...

    def collate(self, items: list[Any]) -> Batch:
        """Join items into one micro-batch."""
        ...

    def stand_in(self, item: Any) -> Batch:
        """Return ``item`` as a batch with no trained unit, for a rank that has run out of items."""
        ...

    @property
    def loss_units(self) -> np.ndarray:
        """int64 ``[len(self)]`` trained units of every item."""
        ...

    @property
    def num_samples(self) -> np.ndarray:
        """int64 ``[len(self)]`` samples of every item."""
        ...

    def identity(self) -> dict[str, str]:
        """Fingerprints by name (``data``, ``template``, ``tokenizer``, ``packing``): a resumed run
        must find them unchanged."""
        ...


class Loader(Protocol):
    """What the loop asks of a data loader (``data.loader.WindowLoader``)."""

    dataset: Any
    batch_size: int
    iters_per_epoch: int
    num_items: int

    def windows(
        self, epoch: int, start: int, accumulate: int, hint: dict[str, Any] | None = None
    ) -> Iterator[Window]:
        """Yield the windows of ``epoch`` from item position ``start`` on, the last one short."""
        ...

    def batches(self) -> Iterator[Batch]:
        """Yield this rank's batches of one pass in order, unshuffled (validation)."""
        ...
