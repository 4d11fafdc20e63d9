"""Targets for the tests of the config floor: small classes with every kind of hint."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, Literal, TypedDict

if TYPE_CHECKING:
    from nowhere import Unknown

TEMPLATE = {
    "INSTRUCTION": "<u>{input}<a>",
    "SUFFIX": "<e>",
    "SUFFIX_AS_EOS": True,
    "STOP_WORDS": ["<e>"],
}


class Mode(Enum):
    FAST = 1
    SLOW = 2


class Source(TypedDict, total=False):
    path: str
    weight: float


class Adapter:
    def __init__(self, r: int = 8, bias: Literal["none", "all"] = "none") -> None:
        self.r, self.bias = r, bias


class Words:
    def __init__(self, path: str, side: str = "right") -> None:
        self.path, self.side = path, side

    @classmethod
    def load(cls, path: str, side: str = "right") -> Words:
        return cls(path, side)


class Net:
    def __init__(self, width: int, adapter: Adapter | None = None, hint: Unknown = None) -> None:
        if width < 0:
            raise ValueError("negative width")
        self.width, self.adapter, self.hint = width, adapter, hint


class Tiles:
    def __init__(self, tile_size: int = 64, patch_size: int = 16, pixel_shuffle_factor: int = 1):
        self.tile_size = tile_size


class Seeing:
    def __init__(
        self,
        llm: Any = None,
        visual_encoder: Any = None,
        llm_lora: Any = None,
        freeze_llm: bool = False,
        pretrained_pth: str | None = None,
    ) -> None:
        self.llm = llm


class Rows:
    def __init__(
        self,
        words: Words,
        sources: Sequence[Source] = (),
        max_length: int = 8,
        template: dict[str, Any] | None = None,
        scale: float = 1.0,
        mode: Mode | None = None,
        map_fn: Callable[..., Any] | None = None,
        val_fraction: float = 0.0,
        part: str = "train",
        val_size: int | None = None,
        image_processor: Tiles | None = None,
    ) -> None:
        self.words, self.max_length = words, max_length


class Adam:
    def __init__(self, params: Any, lr: float = 1e-3, betas: tuple[float, float] = (0.9, 0.99)):
        self.params, self.lr, self.betas = params, lr, betas


class Momentum(Adam):
    pass


@dataclass
class Optim:
    optimizer: Any
    accumulative_counts: int = 1


@dataclass
class Loop:
    max_epochs: int | None = None
    max_iters: int | None = None
    val_interval: int = 1


@dataclass
class Ramp:
    begin: float = 0
    end: float | None = None
    by_epoch: bool = True
    start_factor: float = 0.1


class Hook:
    def __init__(self, every: int = 1, **extra: Any) -> None:
        self.every = every


class Chat:
    def __init__(self, evaluation_inputs: list[str], prompt_template: Any = None) -> None:
        self.prompt_template = prompt_template
