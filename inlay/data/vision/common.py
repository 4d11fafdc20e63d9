"""What the image processors share: special tokens, a user's own transform, JSON files."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from inlay.core.errors import ConfigError, ModelError
from inlay.core.io import read_json

if TYPE_CHECKING:
    from PIL.Image import Image

ImageTransform = Callable[..., "Image"]
"""A user's change of a picture: PIL picture to PIL picture, optionally with a ``seed`` keyword."""


def add_special_tokens(tokenizer: Any, tokens: Sequence[str]) -> list[int]:
    """Return the ids of ``tokens``; those that the tokenizer lacks are added in this order.

    The tokenizer is changed in place. A token that it knows keeps its id and kind.
    """
    known = tokenizer.get_vocab()
    tokenizer.add_tokens([t for t in tokens if t not in known], special_tokens=True)
    return tokenizer.convert_tokens_to_ids(list(tokens))


def read_json_of(model: str, name: str) -> dict[str, Any] | None:
    """Return a JSON file of a model's folder or hub repository; None where it has no such file.

    Raises:
        ModelError: there is no such folder or repository.
    """
    from transformers.utils import cached_file

    try:
        path = cached_file(
            model,
            name,
            _raise_exceptions_for_gated_repo=False,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
        )
    except OSError as error:
        raise ModelError(f"'{model}' is neither a folder nor a hub name: {error}") from None
    return None if path is None else read_json(path)


class Transform:
    """A user's ``image_transform`` (or none): applied first, and held to keep the picture's size.

    Tokens are planned from the size of the file before any picture is decoded, so a transform may
    change what a picture shows but not how large it is.
    """

    def __init__(self, transform: ImageTransform | str | None) -> None:
        """Resolve ``transform``: a function, its dotted name (``"package.module.function"``), None.

        Raises:
            ConfigError: the dotted name leads nowhere, or to something that cannot be called.
        """
        function = _imported(transform) if isinstance(transform, str) else transform
        if function is not None and not callable(function):
            raise ConfigError(
                f"image_transform must be a function that takes and returns a PIL picture,"
                f" found {function!r}"
            )
        self.function = function
        self.seeded = function is not None and "seed" in inspect.signature(function).parameters

    @property
    def name(self) -> str | None:
        """Module and name of the function, for fingerprints; None without one."""
        if self.function is None:
            return None
        kind = self.function if hasattr(self.function, "__qualname__") else type(self.function)
        return f"{kind.__module__}.{kind.__qualname__}"

    def __call__(self, image: Image, seed: int) -> Image:
        """Return the picture as RGB, transformed.

        Raises:
            ConfigError: the transform returned something else, or a picture of another size.
        """
        if self.function is not None:
            from PIL.Image import Image as Picture

            before = image.size
            image = self.function(image, seed=seed) if self.seeded else self.function(image)
            if not isinstance(image, Picture):
                raise ConfigError(
                    f"image_transform {self.name} must return a PIL picture, found {type(image)}"
                )
            if image.size != before:
                raise ConfigError(
                    f"image_transform {self.name} made a picture of {before[0]}x{before[1]} px"
                    f" {image.size[0]}x{image.size[1]} px; tokens are planned from the size of the"
                    " file, so a transform must keep it: resize its result back"
                )
        return image if image.mode == "RGB" else image.convert("RGB")


def _imported(name: str) -> ImageTransform:
    module, _, attribute = name.rpartition(".")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"image_transform '{name}' cannot be imported: {error}") from None
