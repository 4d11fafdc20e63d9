"""`inlay doctor`: a proof, on this machine, that packed samples cannot see each other.

Three documents in one row, of which only the middle one is trained, go through what training goes
through: collation, precision, the model's own attention, recomputed activations. Whatever the other
two hold, the loss keeps its bits, and its gradient at their tokens is exactly zero. Without the
borders the same check must find that they are seen, or it would prove nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from inlay.app.doctor.finding import FAIL, OK, Finding

if TYPE_CHECKING:
    import torch

    from inlay.core.types import Batch
    from inlay.engine.parallel.single import SingleDevice
    from inlay.models.sft import SupervisedFinetune

LENGTHS = (23, 17, 31)
"""Tokens of the three documents."""
MIDDLE = slice(LENGTHS[0], LENGTHS[0] + LENGTHS[1])
VOCABULARY = 128
ALONE = {"float32": 1e-5, "bfloat16": 2e-2, "float16": 5e-3}
"""Relative difference that the loss of the middle one may have to that of it alone."""
ADVICE = "set pack_to_max_length=False and batch_size=1, and report it with this output"
IMPORT_FIRST = "a library cannot be imported: mend what fails under libraries first"


def examine_packing() -> Iterator[Finding]:
    """Yield a finding for every device and precision, each of which may have its own kernel."""
    import torch

    devices = ["cpu", *(f"cuda:{n}" for n in range(torch.cuda.device_count()))]
    for device in devices:
        for precision in ("float32", "bfloat16", *(["float16"] if device != "cpu" else [])):
            try:
                yield _prove(torch.device(device), precision)
            except Exception as error:  # whatever a kernel, or a library that does not fit, raises
                reason = str(error).partition("\n")[0]
                text = f"could not be tried: {type(error).__name__}: {reason}"
                advice = IMPORT_FIRST if isinstance(error, ImportError) else ADVICE
                yield Finding("packing", f"{device} {precision}", FAIL, text, advice)


def _prove(device: torch.device, precision: str) -> Finding:
    from inlay.engine.parallel.single import SingleDevice
    from inlay.models.attention import kernel_name

    strategy = SingleDevice(device, precision)
    model: Any = strategy.place(tiny_model()).train()
    text = kernel_name(device, strategy.dtype)
    first, gradient = _loss(strategy, model, _row(seed=1))
    other, _ = _loss(strategy, model, _row(seed=2))
    blind, _ = _loss(strategy, model, _row(seed=1, borders=False))
    blind_other, _ = _loss(strategy, model, _row(seed=2, borders=False))
    alone, _ = _loss(strategy, model, _row(seed=1, alone=True))
    outside = gradient.clone()
    outside[MIDDLE] = 0
    problems = []
    if first != other:
        problems.append(f"the loss of a sample depends on its neighbours ({first} and {other})")
    if float(outside.abs().max()) != 0:
        problems.append(f"its gradient reaches them ({float(outside.abs().max()):.2g})")
    if abs(first - alone) > ALONE[precision] * abs(alone):
        problems.append(f"its loss is {first:.5f} packed and {alone:.5f} alone")
    if blind == blind_other or float(gradient[MIDDLE].abs().max()) == 0:
        problems.append("the check is blind: it finds nothing without borders, either")
    name = f"{device} {precision}"
    if problems:
        return Finding("packing", name, FAIL, f"{text}: {'; '.join(problems)}", ADVICE)
    return Finding("packing", name, OK, f"{text}: no sample sees another one")


def tiny_model() -> SupervisedFinetune:
    """A random Llama of two layers with grouped queries, as training wraps it."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from inlay.models.sft import SupervisedFinetune

    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.1,  # attention that is far from even
        max_position_embeddings=128,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return SupervisedFinetune(LlamaForCausalLM(config))


def _row(seed: int, borders: bool = True, alone: bool = False) -> Batch:
    """The three documents; ``seed`` draws the outer ones, the middle one is always the same.

    Args:
        borders: False says that they are one. alone: the middle one and nothing else.
    """
    import numpy as np
    import torch

    from inlay.core.types import Sample
    from inlay.data.collate import collate

    samples = []
    for number, length in enumerate(LENGTHS):
        is_middle = number == 1
        draw = np.random.default_rng([0 if is_middle else seed, number])
        ids = draw.integers(1, VOCABULARY, length, dtype=np.int32)
        samples.append(Sample(ids, np.full(length, is_middle) & (np.arange(length) > 0)))
    batch = collate(samples[1:2] if alone else samples)
    if not borders:
        whole = list(accumulate(LENGTHS))[-1]
        batch.inputs["doc_starts"] = torch.tensor([0, whole], dtype=torch.int32)
        batch.inputs["longest_document"] = whole
    return batch


def _loss(strategy: SingleDevice, model: Any, batch: Batch) -> tuple[float, torch.Tensor]:
    """Return the loss, and its gradient at the embedded tokens, ``[N, hidden]``."""
    seen: list[Any] = []

    def keep(_module: Any, _inputs: Any, out: torch.Tensor) -> None:
        out.retain_grad()
        seen.append(out)

    hook = model.llm.get_input_embeddings().register_forward_hook(keep)
    try:
        loss = strategy.forward(model, batch).loss_sum / batch.loss_units
        strategy.backward(loss)
    finally:
        hook.remove()
    return float(loss.detach()), seen[0].grad[0].float().cpu()
