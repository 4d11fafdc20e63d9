"""Libraries that compile functions at import do so at the first call instead.

peft imports bitsandbytes wherever it is installed, and bitsandbytes decorates functions with
``torch.compile``, which imports the compiler: a second of CPU time before every LoRA run, for
functions that few runs ever call.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def compile_at_first_call() -> Iterator[None]:
    """Inside, ``torch.compile`` of a function returns one that is compiled when it is called.

    Modules, whose compiled form is another module, are compiled at once as ever.
    """
    import torch

    real = torch.compile

    def late(model: Any = None, **options: Any) -> Any:
        if model is None:
            return functools.partial(late, **options)
        if isinstance(model, torch.nn.Module):
            return real(model, **options)
        compiled: list[Callable[..., Any]] = []

        @functools.wraps(model)
        def call(*args: Any, **kwargs: Any) -> Any:
            if not compiled:
                compiled.append(real(model, **options))
            return compiled[0](*args, **kwargs)

        return call

    torch.compile = late
    try:
        yield
    finally:
        torch.compile = real
