"""The tokens of a picture of a given size, asked of the model's own processor."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import numpy as np
from PIL import Image

from inlay.core.errors import DataError, ModelError
from inlay.core.types import ImagePlan, Pixels

_KEPT_SIZES = 50_000
_PROBES = ((300, 200), (160, 400))
_MORE_PROBES = ((28, 500), (640, 480), (1500, 1000))
_TEXT = {"input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids", "labels"}


class Planner:
    """Plans by running a processor on blank pictures, at little cost.

    Three ways, the cheapest that agrees with the real processor on a few sizes: the processor's
    own arithmetic (``_get_num_multimodal_tokens``); the processor on pictures that have a shape but
    no memory; the processor as it is. Plans are remembered by size.
    """

    def __init__(self, processor: Any) -> None:
        """Try the ways out.

        Raises:
            ModelError: the processor does not expand an image token, or its pictures of different
                sizes cannot be joined.
        """
        self.processor = processor
        self._blank = processor
        self._count: _Counter | None = None
        self._plans: dict[tuple[int, int], ImagePlan] = {}
        self._shared: dict[ImagePlan, ImagePlan] = {}
        if not getattr(processor, "image_token", None):
            raise _no_tokens(processor)
        real = [self._run(size) for size in _PROBES]
        self.image_token_id = _image_token_id(processor, real[0][0])
        _check_joinable(processor, [features for _, features in real])
        self._special = {
            i for i, t in processor.tokenizer.added_tokens_decoder.items() if t.special
        }
        plans = [self._as_plan(ids, features) for ids, features in real]
        self._blank = _shapes_only(processor)
        if self._blank is not processor and not self._agrees(plans):
            self._blank = processor
        self._count = _counter(processor, self.image_token_id, self._probe)

    def __call__(self, width: int, height: int) -> ImagePlan:
        """Return the plan of a picture of this size in px.

        Raises:
            DataError: the processor refuses pictures of this shape.
        """
        size = (width, height)
        plan = self._plans.get(size)
        if plan is None:
            try:
                plan = self._count(size) if self._count else self._probe(size)
            except ValueError as error:
                raise DataError(f"a picture of {width}x{height} px: {error}") from None
            if len(self._plans) >= _KEPT_SIZES:
                self._plans.clear()
            plan = self._plans[size] = self._shared.setdefault(plan, plan)
        return plan

    def __getstate__(self) -> dict[str, Any]:
        # the class of the twin is made here and has no name to be found by
        twin = self._blank is not self.processor
        return {**self.__dict__, "_blank": twin, "_plans": {}, "_shared": {}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._blank = _shapes_only(self.processor) if state["_blank"] else self.processor

    def _probe(self, size: tuple[int, int]) -> ImagePlan:
        return self._as_plan(*self._run(size))

    def _agrees(self, plans: list[ImagePlan]) -> bool:
        try:
            return [self._probe(size) for size in _PROBES] == plans
        except Exception:  # whatever a family's code may do with arrays that it cannot write to
            return False

    def _run(self, size: tuple[int, int]) -> tuple[list[int], Pixels]:
        width, height = size
        if self._blank is self.processor:
            features = call(self.processor, Image.new("RGB", size))
        else:
            blank = np.broadcast_to(np.uint8(0), (height, width, 3))
            options = {"input_data_format": "channels_last", "do_pad": False}
            features = call(self._blank, blank, return_tensors=None, **options)
        return [int(i) for i in np.asarray(features["input_ids"][0])], joinable(features)

    def _as_plan(self, ids: list[int], features: Pixels) -> ImagePlan:
        special = [k for k, i in enumerate(ids) if i in self._special or i == self.image_token_id]
        start, stop = special[0], special[-1] + 1
        prefix, suffix = map(self.processor.tokenizer.decode, (ids[:start], ids[stop:]))
        values = features["pixel_values"]
        tiles = len(values) if values.ndim == 4 else 1
        return ImagePlan(prefix, tuple(ids[start:stop]), tiles, suffix)


class _Counter:
    """Plans that are one run of image tokens between the same tokens, by the run's length."""

    def __init__(self, processor: Any, image_token_id: int, plan: ImagePlan, offset: int) -> None:
        self.processor, self.image_token_id, self.offset = processor, image_token_id, offset
        self.plan = plan
        first = plan.ids.index(image_token_id)
        last = first + plan.ids.count(image_token_id)
        self.before, self.after = plan.ids[:first], plan.ids[last:]

    def __call__(self, size: tuple[int, int]) -> ImagePlan:
        run = (self.image_token_id,) * (reported(self.processor, size) + self.offset)
        return replace(self.plan, ids=self.before + run + self.after)


def _counter(processor: Any, image_token_id: int, probe: Any) -> _Counter | None:
    """Return a counter if it gives the plans of ``probe`` on all sizes tried."""
    if not hasattr(processor, "_get_num_multimodal_tokens"):
        return None
    plans = {size: probe(size) for size in (*_PROBES, *_MORE_PROBES)}
    first = plans[_PROBES[0]]
    offset = first.ids.count(image_token_id) - reported(processor, _PROBES[0])
    counter = _Counter(processor, image_token_id, first, offset)
    agree = all(counter(size) == plan for size, plan in plans.items())
    return counter if agree and first.tiles == 1 else None


def reported(processor: Any, size: tuple[int, int]) -> int:
    """Return the number of image tokens that a processor computes for a size (width, height)."""
    width, height = size
    found = processor._get_num_multimodal_tokens(image_sizes=[(height, width)])
    return int(found["num_image_tokens"][0])


def call(processor: Any, image: Any, **options: Any) -> Any:
    """Run a processor of transformers on one picture in place of its placeholder."""
    options = {"return_tensors": "np", **options}
    return processor(
        images=[image], text=[processor.image_token], add_special_tokens=False, **options
    )


def joinable(features: Any) -> Pixels:
    """Return a processor's arrays for one picture so that pictures join along the first axis.

    Tokens are left out. Where a family has an axis of tiles beside that of pictures (``[1, n, 3,
    h, w]``), the picture's axis goes. ``num_rows`` int64 ``[1]`` is the length of ``pixel_values``.
    """
    found = {k: np.asarray(v) for k, v in features.items() if k not in _TEXT}
    pixels = {
        name: value.astype(np.float32) if value.dtype == np.float64 else value
        for name, value in found.items()
    }
    values = pixels["pixel_values"]
    if values.ndim == 5:
        tiled = [n for n, v in pixels.items() if v.ndim > 2 and v.shape[:2] == values.shape[:2]]
        pixels.update({name: pixels[name][0] for name in tiled})
    pixels["num_rows"] = np.array([len(pixels["pixel_values"])], np.int64)
    return pixels


def _shapes_only(processor: Any) -> Any:
    """Return a twin whose image processor computes shapes, not colours; itself if it cannot."""
    from transformers.image_processing_backends import PilBackend

    kind = type(processor.image_processor)
    if not issubclass(kind, PilBackend):
        return processor

    class ShapesOnly(PilBackend):
        """Stands between a family's own steps and the arithmetic on pixels that they end in."""

        def resize(self, image: Any, size: Any, *args: Any, **kwargs: Any) -> Any:
            if not (size.height and size.width):
                return super().resize(image, size, *args, **kwargs)
            return np.broadcast_to(image[:1, :1, :1], (len(image), size.height, size.width))

        def rescale(self, image: Any, *args: Any, **kwargs: Any) -> Any:
            return image

        def normalize(self, image: Any, *args: Any, **kwargs: Any) -> Any:
            return image

    twin = copy.copy(processor)
    twin.image_processor = copy.copy(processor.image_processor)
    twin.image_processor.__class__ = type(kind.__name__, (kind, ShapesOnly), {})
    return twin


def _image_token_id(processor: Any, ids: list[int]) -> int:
    """Return the token that features replace: Gemma 3's is not the one that its text has."""
    owners = (processor, processor.tokenizer)
    known = [i for i in (getattr(o, "image_token_id", None) for o in owners) if i is not None]
    if not known or not any(i in ids for i in known):
        raise _no_tokens(processor)
    return max(known, key=ids.count)


def _no_tokens(processor: Any) -> ModelError:
    return ModelError(
        f"{type(processor).__name__} does not put image tokens into the text: only models that read"
        " pictures as tokens can be used"
    )


def _check_joinable(processor: Any, examples: list[Pixels]) -> None:
    shapes = [{name: value.shape[1:] for name, value in pixels.items()} for pixels in examples]
    if shapes[0] != shapes[1]:
        raise ModelError(
            f"{type(processor).__name__} makes arrays that cannot be joined over pictures of"
            f" different sizes: {shapes[0]} and {shapes[1]}"
        )
