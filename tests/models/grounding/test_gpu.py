"""Grounding on a real GPU against the CPU: numbers, precision, memory, the command line."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import grounding_runs
import pytest
import torch
import transformers as T
from looks import Documents, expected, look_at
from sights import TEXT, livelier, llama, row, seeing, text
from tiny_grounding import Setup
from tiny_sam import tiny_sam2
from torch import Tensor

from inlay.engine.parallel.ddp import DataParallel
from inlay.engine.parallel.single import SingleDevice
from inlay.models import FrozenGrounding, Sam2Refiner
from inlay.models.attention import document_mask
from inlay.models.grounding.capture import Grounded, capture
from inlay.models.grounding.decode import capture_decoding

pytestmark = pytest.mark.gpu

DEVICE = torch.device("cuda", 0)
CLOSE = 1e-3


@pytest.fixture(autouse=True)
def whole_float32() -> Iterator[None]:
    """Convolutions round to 10 bits otherwise."""
    before, torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.allow_tf32, False
    yield
    torch.backends.cudnn.allow_tf32 = before


def on_gpu(model: FrozenGrounding) -> FrozenGrounding:
    return copy.deepcopy(model).to(DEVICE)


def gradients(model: torch.nn.Module) -> dict[str, Tensor]:
    return {n: p.grad.cpu() for n, p in model.named_parameters() if p.grad is not None}


def assert_close(found: Tensor, wanted: Tensor, tolerance: float = CLOSE) -> None:
    """To a share of the greatest value."""
    scale = max(wanted.abs().max().item(), 1e-3)
    assert (found.float().cpu() - wanted.float().cpu()).abs().max() < tolerance * scale


# -- capture -------------------------------------------------------------------------------------


def three_documents() -> tuple[list[list[int]], Any]:
    torch.manual_seed(5)
    documents = [seeing(4), text(9), seeing(3, 2)]
    ends = [len(ids) for ids in documents]
    words = [[[ends[0] - 4, ends[0] - 3], [ends[0] - 2]], [], [[ends[2] - 5, ends[2] - 2]]]
    return documents, words


def eager(decoder: Any, documents: Documents) -> list[Any]:
    before = decoder.config._attn_implementation
    decoder.set_attn_implementation("eager")
    give = dict(output_attentions=True, output_hidden_states=True)
    outputs = [decoder(torch.tensor([ids], device=DEVICE), **give) for ids in documents]
    decoder.set_attn_implementation(before)
    return outputs


DECODERS: dict[str, Callable[[], Any]] = {
    "llama": lambda: llama().model,
    "gemma2": lambda: livelier(
        T.Gemma2Model(T.Gemma2Config(**TEXT, head_dim=8, attn_logit_softcapping=3.0))
    ),
    "window": lambda: livelier(T.MistralModel(T.MistralConfig(**TEXT, sliding_window=8))),
}


@torch.no_grad()
@pytest.mark.parametrize("side", ["cpu", "cuda"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 0.05)])
@pytest.mark.parametrize("name", DECODERS)
def test_capture_equals_eager(name: str, dtype: torch.dtype, tolerance: float, side: str) -> None:
    """In bfloat16 the output path is the kernel for documents; tokens may be named on any side."""
    decoder = DECODERS[name]().eval().to(DEVICE, dtype)
    documents, words = three_documents()
    flat = row([(ids, 0) for ids in documents])
    given = {k: flat[k].to(DEVICE) for k in ("input_ids", "position_ids", "doc_starts")}
    look = look_at(documents, words)
    tokens = [x.to(side) for x in (look.batch, look.rows, look.masks, look.columns)]
    with capture(decoder, Grounded(*tokens)) as seen:
        decoder(
            input_ids=given["input_ids"],
            position_ids=given["position_ids"],
            attention_mask=document_mask(given["doc_starts"]),
            longest_document=max(map(len, documents)),
            use_cache=False,
        )
    maps, hidden = expected(eager(decoder, documents), documents, words)
    assert seen.maps.dtype == torch.float32 and seen.hidden.dtype == dtype
    assert seen.maps.is_cuda and seen.hidden.is_cuda
    for found, wanted in zip(seen.maps, maps, strict=True):
        width = wanted.shape[1]
        assert (found[:, :width] - wanted).abs().max() < tolerance
        assert not found[:, width:].any()
    assert_close(seen.hidden, hidden, max(tolerance, 1e-4))


@torch.no_grad()
def test_decode_steps() -> None:
    model = llama().eval().to(DEVICE)
    torch.manual_seed(4)
    ids = torch.tensor([seeing(4)], device=DEVICE)
    columns = (ids[0] == 99).nonzero()[:, 0].cpu()
    with capture_decoding(model.model, columns) as rows:
        out = model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=6, min_new_tokens=6
        )
    (forced,) = eager(model.model, out.tolist())
    places = range(ids.shape[1], out.shape[1] - 1)
    for number, place in enumerate(places):
        wanted = torch.cat([layer[0, :, place, columns] for layer in forced.attentions])
        torch.testing.assert_close(rows.maps[number], wanted.cpu(), atol=1e-5, rtol=0)
    assert rows.hidden.is_cuda and not rows.maps.is_cuda


@torch.no_grad()
def test_memory_of_capture_against_eager_maps() -> None:
    """N = 3000, 40 tokens that name 8 masks, 2880 image tokens: what each adds to the model."""
    config = T.LlamaConfig(
        vocab_size=512,
        hidden_size=384,
        intermediate_size=1024,
        num_hidden_layers=12,
        num_attention_heads=8,
        num_key_value_heads=4,
        max_position_embeddings=4096,
        use_cache=False,
    )
    decoder = T.LlamaModel(config).eval().to(DEVICE, torch.bfloat16)
    ids = torch.randint(512, (1, 3000), device=DEVICE)
    rows = torch.arange(2960, 3000)
    columns = torch.arange(20, 2900).expand(8, -1)
    look = Grounded(rows * 0, rows, torch.arange(8).repeat_interleave(5), columns)
    mask = document_mask(torch.tensor([0, 3000], device=DEVICE))

    def captured() -> None:
        with capture(decoder, look):
            decoder(ids, attention_mask=mask, longest_document=3000)

    def plain() -> None:
        decoder.set_attn_implementation("inlay")
        decoder(ids, attention_mask=mask, longest_document=3000)

    def whole() -> None:
        decoder.set_attn_implementation("eager")
        decoder(ids, output_attentions=True)

    bare, rows_alone, everything = (peak(run) for run in (plain, captured, whole))
    assert everything > 25 * rows_alone
    maps = 4 * 8 * 12 * 8 * 2880  # bytes of [M, C, K]
    assert rows_alone - bare < 4 * maps


def peak(run: Callable[[], None]) -> int:
    """Bytes that a run takes at most, after one to warm up."""
    run()
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    run()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


# -- the whole model -----------------------------------------------------------------------------


def compare(setup: Setup, **settings: Any) -> None:
    here = setup.model(**settings).train()
    there, batch = on_gpu(here), setup.batch(setup.cases())
    wanted, found = here(**batch.inputs), SingleDevice(DEVICE).forward(there, batch)
    wanted.loss_sum.backward()
    found.loss_sum.backward()
    assert_close(found.loss_sum, wanted.loss_sum)
    assert found.metrics.keys() == wanted.metrics.keys()
    for name, value in wanted.metrics.items():
        assert found.metrics[name].item() == pytest.approx(value.item(), abs=CLOSE), name
    ours, theirs = gradients(there), gradients(here)
    assert ours.keys() == theirs.keys()
    for name, gradient in theirs.items():
        assert_close(ours[name], gradient, 10 * CLOSE)
    masks = there.eval().predict(**batch.to(DEVICE).inputs)
    for logits, others in zip(masks, here.eval().predict(**batch.inputs), strict=True):
        assert_close(logits, others)


def test_it_is_that_of_the_cpu(setup: Setup) -> None:
    compare(setup, selector=True)


@pytest.mark.parametrize("multimask", [False, True])
def test_with_sam2(tiny: Setup, multimask: bool) -> None:
    compare(tiny, refiner=Sam2Refiner(sam=tiny_sam2(), multimask_output=multimask))


def test_in_bfloat16(tiny: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the recipes train: a model in bfloat16, heads in float32 under autocast."""
    model = tiny.model(selector=True).train()
    there, batch = on_gpu(model), tiny.batch(tiny.cases())
    there.lmm.to(torch.bfloat16)
    assert there.refiner is not None
    corners: list[tuple[torch.dtype, bool]] = []
    encoding = there.refiner.sam.prompt_encoder.shared_embedding
    encoding.register_forward_pre_hook(
        lambda _, args: corners.append((args[0].dtype, torch.is_autocast_enabled("cuda")))
    )
    found = SingleDevice(DEVICE, "bfloat16").forward(there, batch)
    assert corners == [(torch.float32, False)]
    assert found.loss_sum.dtype == torch.float32
    assert found.loss_sum.item() == pytest.approx(model(**batch.inputs).loss_sum.item(), rel=0.05)
    found.loss_sum.backward()
    for name, gradient in gradients(there).items():
        assert gradient.dtype == torch.float32 and gradient.isfinite().all(), name
    for logits in there.eval().predict(**batch.to(DEVICE).inputs):
        assert logits.dtype == torch.float32 and logits.isfinite().all()


def test_a_frozen_model_in_four_bits(tiny: Setup, tmp_path: Path) -> None:
    tiny.adapter.model.base.save_pretrained(tmp_path)
    lmm = type(tiny.adapter).from_pretrained(str(tmp_path), dtype="bf16", bits=4)
    assert lmm.device == DEVICE
    model = replace(tiny, adapter=lmm).model(selector=True).to(DEVICE).train()
    found = SingleDevice(DEVICE, "bfloat16").forward(model, tiny.batch(tiny.cases()))
    found.loss_sum.backward()
    trained = {n for n, p in model.named_parameters() if p.requires_grad}
    assert gradients(model).keys() == trained
    assert all(g.isfinite().all() for g in gradients(model).values())


@pytest.fixture
def alone() -> Iterator[None]:
    """A process group of this process."""
    store = torch.distributed.HashStore()
    torch.distributed.init_process_group("nccl", store=store, rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def test_data_parallel(tiny: Setup, alone: None) -> None:
    model, batch = on_gpu(tiny.model()).train(), tiny.batch(tiny.cases())
    plain = SingleDevice(DEVICE).forward(model, batch)
    plain.loss_sum.backward()
    wanted = gradients(model)
    model.zero_grad()
    strategy = DataParallel(DEVICE)
    found = strategy.forward(strategy.prepare(model), batch)
    strategy.backward(found.loss_sum)
    assert found.loss_sum.item() == pytest.approx(plain.loss_sum.item(), rel=1e-5)
    ours = gradients(model)
    assert ours.keys() == wanted.keys()
    for name, gradient in wanted.items():
        assert_close(ours[name], gradient)


def test_every_tensor_is_pinned(tiny: Setup) -> None:
    cases = tiny.cases()
    batch = tiny.batch(cases)
    batch.inputs["pictures"][0] = torch.zeros(3, 0, 0, dtype=torch.uint8)  # as of a cached one
    pinned = batch.pin_memory()
    for name in ("masks", "pictures"):
        assert all(x.is_pinned() for x in pinned.inputs[name] if x.numel())
    assert pinned.inputs["row"]["images"]["pixel_values"].is_pinned()
    moved = pinned.to(DEVICE, non_blocking=True).inputs
    assert moved["pictures"][0].shape == (3, 0, 0) and moved["pictures"][0].is_cuda
    for before, after in zip(batch.inputs["masks"], moved["masks"], strict=True):
        assert torch.equal(before, after.cpu())
    assert moved["targets"] == batch.inputs["targets"]


# -- a run ---------------------------------------------------------------------------------------


def inlay(folder: Path, *words: Any, said: str = "") -> str:
    """Run a command in a process of its own, since workers are forked from it."""
    command = [sys.executable, "-m", "inlay", *map(str, words)]
    done = subprocess.run(command, cwd=folder, input=said, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.mark.parametrize("cached", [False, True])
def test_a_run_with_workers_and_what_it_trained(tmp_path: Path, cached: bool) -> None:
    coco = tmp_path / "coco"
    grounding_runs.write_coco(coco)
    model = grounding_runs.deepseek(tmp_path / "lmm")
    more = [
        *grounding_runs.SIZES[grounding_runs.DEEPSEEK],
        "batch_size=2",
        "max_epochs=3",
        "dataloader_num_workers=2",
        "default_hooks.logger.interval=1",
        *([f"cache_dir={tmp_path / 'cache'}", "cache_texts=True"] if cached else []),
    ]
    options = grounding_runs.options(coco, model, grounding_runs.sam(tmp_path / "sam"), *more)
    words = [grounding_runs.DEEPSEEK, "--work-dir", "work", "--cfg-options", *options]
    inlay(tmp_path, "train", *words)
    (scalars,) = (tmp_path / "work").rglob("scalars.json")
    lines = [json.loads(line) for line in scalars.read_text().splitlines()]
    losses = [line["loss"] for line in lines if "loss" in line]
    assert len(losses) == 18 and all(loss == loss and loss < 10 for loss in losses)
    picture = coco / "train2017" / "1.png"
    last = (tmp_path / "work" / "last_checkpoint").read_text().strip()
    out = ["--out", "overlay.png", "--json", "masks.json"]
    checkpoint = tmp_path / "work" / Path(last).name
    inlay(tmp_path, "ground", picture, "the block", "--checkpoint", checkpoint, *out)
    (mask,) = json.loads((tmp_path / "masks.json").read_text())
    assert mask["phrase"] == "the block" and 0 <= mask["score"] <= 1
    options = ["--ground", checkpoint, "--image", picture, "--max-new-tokens", 4]
    inlay(tmp_path, "chat", model, *options, said="what is this?\nEXIT\n")
