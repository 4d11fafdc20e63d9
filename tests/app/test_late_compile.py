"""torch.compile put off: the same function, compiled when it is first called."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from inlay.app.late_compile import compile_at_first_call


def test_a_function_is_compiled_once_at_its_first_call(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[dict[str, object]] = []

    def real(model, **options):  # type: ignore[no-untyped-def]
        seen.append(options)
        return lambda x: model(x) + 1

    monkeypatch.setattr(torch, "compile", real)
    with compile_at_first_call():

        @torch.compile(dynamic=True)
        def twice(x: int) -> int:
            return 2 * x

        plain = torch.compile(lambda x: -x)
    assert torch.compile is real and not seen
    assert (twice(3), twice(4), plain(1)) == (7, 9, 0)
    assert seen == [{"dynamic": True}, {}]
    assert twice.__name__ == "twice"


def test_modules_are_compiled_at_once() -> None:
    with compile_at_first_call():
        module = torch.compile(torch.nn.Linear(2, 2), backend="eager")
    assert module(torch.ones(1, 2)).shape == (1, 2)


def test_a_lora_config_does_not_import_the_compiler() -> None:
    pytest.importorskip("bitsandbytes")
    code = """
import sys
from inlay.app.late_compile import compile_at_first_call
with compile_at_first_call():
    import peft
assert "bitsandbytes" in sys.modules
assert "torch._inductor.compile_fx" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)
