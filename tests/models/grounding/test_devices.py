"""Nothing of grounding mixes devices: its paths run on a GPU that is not there (``devices.py``)."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from devices import GPU, PretendGPU, on_gpu
from looks import look_at
from sights import FAMILIES, IMAGE, family, llama, seeing, text
from test_generic import to_look
from tiny_grounding import Setup
from tiny_sam import tiny_sam2

from inlay.app.evaluate.items import own_device
from inlay.core.types import Batch
from inlay.engine.parallel.single import SingleDevice
from inlay.models import FeatureCache, FrozenGrounding, GenericAdapter, Sam2Refiner, VisionFinetune
from inlay.models import attention as attention_module
from inlay.models.grounding.decode import _Steps, capture_decoding
from inlay.models.grounding.maps import cut_to_picture
from inlay.models.grounding.pointing import pick_heads, point
from inlay.models.grounding.sight import look

WAITS = 40
"""Most waits for a GPU in a step of three samples, but for those inside of the frozen model."""


@pytest.fixture
def gpu() -> Iterator[PretendGPU]:
    with PretendGPU() as mode:
        yield mode


def gradients(model: FrozenGrounding) -> dict[str, torch.Tensor]:
    return {n: p.grad.cpu() for n, p in model.named_parameters() if p.grad is not None}


def moved(setup: Setup, **settings: Any) -> FrozenGrounding:
    """A model whose own copy of the frozen one is on the GPU, too."""
    model = copy.deepcopy(setup.model(**settings)).to("cuda")
    assert model.device == model.lmm.device == GPU
    return model


# -- the pretended GPU ---------------------------------------------------------------------------


def test_a_tensor_of_the_gpu_meets_none_of_the_cpu(gpu: PretendGPU) -> None:
    there, here = torch.arange(3.0, device="cuda"), torch.arange(3.0)
    assert there.device == GPU and there.is_cuda and here.device.type == "cpu"
    for made in (there * 2, here.to("cuda"), there[:1], there.new_zeros(2), there.split(1)[0]):
        assert made.device == GPU
    assert not on_gpu(there.cpu()) and torch.equal(there.cpu(), here)
    assert (there + torch.tensor(1.0)).tolist() == [1.0, 2.0, 3.0], "a number may be anywhere"
    assert there[torch.tensor([2])].tolist() == [2.0], "so may an index into the GPU's"
    for mixed in (
        lambda: there + here,
        lambda: torch.cat([there, here]),
        lambda: torch.stack([there.sum(), here.sum()]),
        lambda: here[there.long()],
        lambda: there.index_select(0, torch.tensor([1])),
        lambda: torch.nn.functional.linear(here, there[None]),
    ):
        with pytest.raises(RuntimeError, match=r"same device|should be on the CPU"):
            mixed()
    with pytest.raises(TypeError, match="numpy"):
        there.numpy()


def test_what_waits_for_the_gpu_is_counted(gpu: PretendGPU) -> None:
    here = torch.arange(3)
    there = here.to("cuda", non_blocking=True)
    torch.where(there > 1, 0, there).sum() + there[1:].max()
    assert not gpu.waits
    for wait in (
        lambda: there.tolist(),
        lambda: bool(there[0] > 1),
        lambda: there[there > 1],
        lambda: there.cpu(),
        lambda: here.to("cuda"),
        lambda: there[[0, 1]],
    ):
        before = gpu.waits.total()
        wait()
        assert gpu.waits.total() == before + 1


# -- training and prediction ---------------------------------------------------------------------


def check(setup: Setup, gpu: PretendGPU, **settings: Any) -> None:
    """Loss, gradients and masks on the GPU are those of the CPU; few waits on the way."""
    model, batch = setup.model(**settings).train(), setup.batch(setup.cases())
    expected = model(**batch.inputs)
    expected.loss_sum.backward()
    there = moved(setup, **settings).train()
    inputs = batch.to("cuda", non_blocking=True).inputs
    gpu.waits.clear()
    found = there(**inputs)
    own = [n for line, n in gpu.waits.items() if "models/vlm" not in line]  # not the library's
    assert sum(own) <= WAITS, gpu.waits
    gpu.waits.clear()
    found.loss_sum.backward()
    assert not gpu.waits
    assert found.loss_sum.device == GPU and found.loss_sum.item() == expected.loss_sum.item()
    assert all(value.device == GPU for value in found.metrics.values())
    ours, theirs = gradients(there), gradients(model)
    assert ours.keys() == theirs.keys() and ours
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    masks = there.eval().predict(**inputs)
    for ours, theirs in zip(masks, model.eval().predict(**batch.inputs), strict=True):
        assert ours.device == GPU and torch.equal(ours.cpu(), theirs)


def test_training_and_prediction(setup: Setup, gpu: PretendGPU) -> None:
    check(setup, gpu)


@pytest.mark.parametrize(
    "settings",
    [{"selector": True, "merge": "max"}, {"refiner": None}, {"refiner": "sam2"}],
    ids=["selector", "no refiner", "sam2"],
)
def test_with_other_parts(tiny: Setup, gpu: PretendGPU, settings: dict[str, Any]) -> None:
    if settings.get("refiner"):
        settings = {"refiner": Sam2Refiner(sam=tiny_sam2(), multimask_output=True)}
    check(tiny, gpu, **settings)


def test_more_words_and_masks_cost_no_more_waits(tiny: Setup, gpu: PretendGPU) -> None:
    """Neither do layers of SAM: there are none in it."""
    model, waits = moved(tiny).train(), []
    one, three = tiny.cases()[1:]
    assert (len(one.masks), len(three.masks)) == (1, 3)
    for case in (one, three):
        inputs = tiny.batch([case]).to("cuda", non_blocking=True).inputs
        gpu.waits.clear()
        model(**inputs)
        waits.append(gpu.waits.total())
        assert not [line for line in gpu.waits if "/sam" in line or "mask_head" in line]
    assert waits[1] <= waits[0] + 1, "the lengths of phrases, where they differ"


def test_an_update(tiny: Setup, gpu: PretendGPU) -> None:
    model, batch = moved(tiny).train(), tiny.batch(tiny.cases())
    weights = [p for p in model.parameters() if p.requires_grad]
    strategy = SingleDevice(GPU)
    optimizer = torch.optim.AdamW(weights, lr=1e-2, foreach=False)
    losses = []
    for _ in range(2):
        out = strategy.forward(model, batch)
        strategy.backward(out.loss_sum / out.loss_units)
        norm, applied = strategy.step(optimizer, weights, max_norm=1.0)
        assert applied and norm > 0
        losses.append(out.loss_sum.item())
    assert losses[1] < losses[0]


def test_from_the_cache(tiny: Setup, gpu: PretendGPU, tmp_path: Path) -> None:
    model = moved(tiny, cache=FeatureCache(tmp_path, texts=True))
    cases, cache = tiny.cases(), model.cache
    first = model(**tiny.batch(cases[1:2]).to("cuda").inputs)
    first.loss_sum.backward()
    mixed = tiny.batch(cases, cache).to("cuda").inputs
    kept_before = [t.document for t in mixed["targets"]]
    half = model(**mixed)
    inputs = tiny.batch(cases, cache).to("cuda").inputs
    assert (kept_before, inputs["row"]) == ([0, None, 1], None)
    found = model(**inputs)
    assert found.loss_sum.device == GPU and found.loss_sum.item() == half.loss_sum.item()
    found.loss_sum.backward()
    masks = model.eval().predict(**inputs)
    assert {mask.device for mask in masks} == {GPU}


# -- looking -------------------------------------------------------------------------------------


def seen_row(name: str) -> tuple[Any, dict[str, Any], Any]:
    model, images, tokens = family(name)
    torch.manual_seed(6)
    documents = [seeing(tokens[0]), text(9), seeing(tokens[1])]
    ends = [len(ids) for ids in documents]
    words = [[[ends[0] - 4, ends[0] - 3], [ends[0] - 2]], [], [[ends[2] - 5, ends[2] - 2]]]
    return model.eval(), to_look(documents, images), look_at(documents, words)


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_is_seen(name: str, gpu: PretendGPU) -> None:
    model, row, grounded = seen_row(name)
    adapter = GenericAdapter(VisionFinetune(model, use_activation_checkpointing=False))
    expected = adapter.look(row, grounded)
    adapter.to("cuda")
    there = Batch(row, 0, 0, 0).to("cuda").inputs
    tokens = {name: getattr(grounded, name).to("cuda") for name in ("batch", "rows", "masks")}
    for given in (grounded, type(grounded)(**tokens, columns=grounded.columns.to("cuda"))):
        seen = adapter.look(there, given)
        assert seen.maps.device == seen.hidden.device == GPU
        assert torch.equal(seen.maps.cpu(), expected.maps)
        assert torch.equal(seen.hidden.cpu(), expected.hidden)


@pytest.mark.parametrize("name", ["llava", "qwen3_vl"])
def test_rows_beside_the_kernel_for_documents(
    name: str, gpu: PretendGPU, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In bfloat16 a GPU attends by that kernel, which is stood in for here."""
    model, row, grounded = seen_row(name)
    adapter = GenericAdapter(VisionFinetune(model, use_activation_checkpointing=False))
    expected = adapter.to(torch.bfloat16).look(row, grounded)
    lengths: list[int] = []

    def varlen(
        query: Any, key: Any, value: Any, starts: Any, longest: int, *rest: Any
    ) -> torch.Tensor:
        given = (query, key, value, starts)
        assert all(x.device == GPU for x in given) and query.dtype == torch.bfloat16
        lengths.append(longest)
        parts = [
            attention_module._in_blocks(
                *(x[:, :, a:b] for x in (query, key, value)), rest[0], 0.0, rest[1], None
            )
            for a, b in zip(starts.tolist(), starts.tolist()[1:], strict=False)
        ]
        return torch.cat(parts, dim=2).transpose(1, 2)

    monkeypatch.setattr(attention_module, "_varlen", varlen)
    monkeypatch.setattr(attention_module, "_varlen_parameters", lambda: {"scale", "window_size"})
    adapter.to("cuda")
    seen = adapter.look(Batch(row, 0, 0, 0).to("cuda").inputs, grounded)
    assert lengths == [row["longest_document"]] * 2
    assert (seen.maps.dtype, seen.hidden.dtype) == (torch.float32, torch.bfloat16)
    assert torch.equal(seen.maps.cpu(), expected.maps)
    assert torch.equal(seen.hidden.cpu(), expected.hidden)


@torch.no_grad()
def test_decode_steps(gpu: PretendGPU) -> None:
    model = llama().eval()
    torch.manual_seed(4)
    ids = torch.tensor([seeing(4)])
    columns = (ids[0] == IMAGE).nonzero()[:, 0]
    options: dict[str, Any] = dict(max_new_tokens=6, min_new_tokens=6, do_sample=False)
    found = []
    for device in ("cpu", "cuda"):
        model.to(device)
        given = ids.to(device)
        with capture_decoding(model.model, columns) as rows:
            model.generate(given, attention_mask=torch.ones_like(given), **options)
        found.append(rows)
    here, there = found
    assert not on_gpu(there.maps) and there.hidden.device == GPU
    assert torch.equal(there.maps, here.maps) and torch.equal(there.hidden.cpu(), here.hidden)
    own = waits_in(gpu, "grounding/decode")
    assert own == {"cpu": 5, "to (upload)": 1}, "a wait for each token, not for each layer"


def waits_in(gpu: PretendGPU, file: str) -> dict[str, int]:
    found: dict[str, int] = {}
    for line, count in gpu.waits.items():
        if file in line:
            kind = line.partition(" ")[2]
            found[kind] = found.get(kind, 0) + count
    return found


def test_of_a_prompt_nothing_is_kept_while_an_answer_is_written() -> None:
    """Its states are 0.8 GB for 3000 tokens of LLaVA-1.5-7B."""
    steps = _Steps(llama().model, torch.arange(2))
    steps.hidden(0, torch.randn(1, 50, 32))
    steps.hidden(0, torch.randn(1, 1, 32))
    assert [x.untyped_storage().nbytes() for x in steps.states[0]] == [0, 4 * 32]


def test_processes_of_one_machine_share_its_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each loads its model where it will run, not all of them through the first GPU."""
    taken: list[str] = []
    assert torch.cuda.is_available() or own_device() is None
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    for rank in range(3):
        monkeypatch.setenv("LOCAL_RANK", str(rank))
        assert own_device() == f"cuda:{rank % 2}"
    assert taken == ["cuda:0", "cuda:1", "cuda:0"]


def test_pointing_without_training(tiny: Setup, gpu: PretendGPU) -> None:
    batch = tiny.batch(tiny.cases()[:1])
    adapter = copy.deepcopy(tiny.adapter)
    found = []
    for device in ("cpu", "cuda"):
        inputs = batch.to(device).inputs
        rows = inputs["caption_rows"], inputs["caption_masks"]
        (sight,) = look(adapter.to(device), inputs["row"], *rows, inputs["targets"])
        heads = pick_heads([sight.maps])
        logits = cut_to_picture(point(sight.maps, heads), sight.canvas, (130, 80))
        found.append((heads, logits))
    assert found[0][0] == found[1][0] != () and found[1][1].device == GPU
    assert torch.equal(found[0][1], found[1][1].cpu())
