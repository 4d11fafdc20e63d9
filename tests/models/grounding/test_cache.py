"""What is kept of the frozen networks: exactly, whole, under the right name, and then used."""

from __future__ import annotations

import errno
import logging
import multiprocessing
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_grounding import Setup, deepseek, llava_next
from tiny_sam import tiny_sam, tiny_sam2
from torch import Tensor

from inlay.core.errors import InlayError
from inlay.models import FeatureCache, FrozenGrounding, Sam2Refiner, SamRefiner
from inlay.models.grounding import cache as cache_module
from inlay.models.grounding.cache import num_bytes
from inlay.models.grounding.refiner import Refiner
from inlay.models.grounding.sight import Sight, look, packed, unpacked

Warnings = pytest.LogCaptureFixture
KEYS = [f"{number:016x}" for number in range(7, 1 << 20, 99991)]


@pytest.fixture(autouse=True)
def heard(caplog: Warnings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Earlier runs in this process may have cut the logger off."""
    monkeypatch.setattr(logging.getLogger("inlay"), "propagate", True)
    caplog.set_level("WARNING", "inlay")


def features(seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    image = torch.randn(8, 6, 6, generator=generator)
    return {
        "image": image,
        "turned": image.transpose(0, 2),
        "hidden": image.bfloat16(),
        "half": image[0].half(),
        "masks": torch.arange(-1, 3),
        "canvas": torch.tensor([0.1, 2.0], dtype=torch.float64),
    }


def opened(folder: Path, images: str | None = "sam", texts: str | None = "lmm") -> FeatureCache:
    cache = FeatureCache(folder, texts=True)
    cache.bind(images, texts)
    return cache


def equal(found: dict[str, Tensor], expected: dict[str, Tensor]) -> bool:
    return found.keys() == expected.keys() and all(
        found[name].dtype == value.dtype and torch.equal(found[name], value)
        for name, value in expected.items()
    )


def the_file(folder: Path) -> Path:
    (path,) = folder.rglob("*.safetensors")
    return path


# -- files ---------------------------------------------------------------------------------------


def test_another_process_finds_the_same_bits(tmp_path: Path) -> None:
    first, second = opened(tmp_path), opened(tmp_path)
    assert not first.has_image(KEYS[0]) and not second.has_text(KEYS[0])
    first.keep_image(KEYS[0], features(0))
    first.keep_text(KEYS[0], features(1))
    assert second.has_image(KEYS[0]) and second.has_text(KEYS[0])
    assert equal(second.image(KEYS[0]), features(0))
    assert equal(second.text(KEYS[0]), features(1))
    size = num_bytes(features(0))
    for kind in ("image", "text"):
        assert size < first.kept_bytes(kind) < size + 1000
    assert first.free_bytes() > 0 and opened(tmp_path / "a" / "b").free_bytes() > 0


def test_only_what_is_wanted_is_kept(tmp_path: Path) -> None:
    unbound, pictures = FeatureCache(tmp_path, texts=True), FeatureCache(tmp_path)
    pictures.bind(None, "lmm")
    assert (unbound.kinds, pictures.kinds, opened(tmp_path).kinds) == ((), (), ("image", "text"))
    for cache in (unbound, pictures):
        cache.keep_image(KEYS[0], features(0))
        cache.keep_text(KEYS[0], features(0))
        assert not cache.has_image(KEYS[0]) and not cache.has_text(KEYS[0])
    assert not list(tmp_path.iterdir())


def test_what_was_computed_in_another_precision_is_not_found(tmp_path: Path) -> None:
    opened(tmp_path).keep_image(KEYS[0], features(0))
    other = FeatureCache(tmp_path, precision="bfloat16")
    other.bind("sam", None)
    assert opened(tmp_path).has_image(KEYS[0]) and not other.has_image(KEYS[0])


def cut(path: Path, keep: Callable[[int], int]) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: keep(len(data))])


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-5] ^= 4
    path.write_bytes(data)


def other(path: Path) -> None:
    """A whole file, of another picture."""
    folder = path.parents[2] / "other"
    opened(folder).keep_image(KEYS[1], features(9))
    path.write_bytes(the_file(folder).read_bytes())


DAMAGE: dict[str, Callable[[Path], Any]] = {
    "empty": lambda path: cut(path, lambda size: 0),
    "header torn": lambda path: cut(path, lambda size: 20),
    "half": lambda path: cut(path, lambda size: size // 2),
    "a byte missing": lambda path: cut(path, lambda size: size - 1),
    "a bit flipped": flip,
    "another key": other,
    "text": lambda path: path.write_text("hello " * 99),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_damage_is_said_once_and_made_good(
    tmp_path: Path, caplog: Warnings, damage: Callable[[Path], Any]
) -> None:
    opened(tmp_path).keep_image(KEYS[0], features(0))
    path = the_file(tmp_path)
    damage(path)
    cache = opened(tmp_path)
    assert not cache.has_image(KEYS[0]) and not cache.has_image(KEYS[0])
    (record,) = caplog.records
    assert f"{path} is damaged; it is computed anew" in record.getMessage()
    cache.keep_image(KEYS[0], features(0))
    assert cache.has_image(KEYS[0]) and equal(cache.image(KEYS[0]), features(0))
    assert len(caplog.records) == 1


def test_damage_after_a_look_is_no_silent_wrong_answer(tmp_path: Path) -> None:
    cache = opened(tmp_path)
    cache.keep_image(KEYS[0], features(0))
    assert cache.has_image(KEYS[0])
    flip(the_file(tmp_path))
    with pytest.raises(InlayError, match=r"gone or damaged\. Resume the run"):
        cache.image(KEYS[0])
    the_file(tmp_path).unlink()
    with pytest.raises(InlayError, match="gone or damaged"):
        cache.image(KEYS[0])
    assert not opened(tmp_path).has_image(KEYS[0]), "a new process computes it anew"


def test_a_full_disk_is_said_once(
    tmp_path: Path, caplog: Warnings, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, calls = opened(tmp_path), []

    def full(path: Path, data: bytes) -> None:
        calls.append(path)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(cache_module, "write_bytes", full)
    for key in KEYS[:3]:
        cache.keep_image(key, features(0))
        assert not cache.has_image(key)
    (record,) = caplog.records
    assert "No space left on device" in record.getMessage() and len(calls) == 1


def test_a_folder_that_cannot_be_written_is_said_once(tmp_path: Path, caplog: Warnings) -> None:
    (tmp_path / "file").write_text("")
    cache = opened(tmp_path / "file")
    cache.keep_image(KEYS[0], features(0))
    cache.keep_text(KEYS[0], features(0))
    assert len(caplog.records) == 1 and not cache.has_image(KEYS[0])


def write_and_read(folder: Path, seed: int) -> None:
    """Two rounds over all keys in an order of its own; whatever is found must be whole."""
    cache, keys = opened(folder), 2 * KEYS
    random.Random(seed).shuffle(keys)
    for key in keys:
        number = KEYS.index(key)
        if cache.has_image(key):
            assert equal(cache.image(key), features(number))
        cache.keep_image(key, features(number))
    logging.getLogger("inlay").handlers.clear()


def test_any_number_of_processes_write_and_read(tmp_path: Path) -> None:
    fork = multiprocessing.get_context("fork")
    children = [fork.Process(target=write_and_read, args=(tmp_path, n)) for n in range(4)]
    for child in children:
        child.start()
    for child in children:
        child.join(60)
    assert [child.exitcode for child in children] == [0] * 4
    cache = opened(tmp_path)
    for number, key in enumerate(KEYS):
        assert cache.has_image(key) and equal(cache.image(key), features(number))
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) == len(KEYS), "no temporary file is left"


# -- the model -----------------------------------------------------------------------------------


def epochs(setup: Setup, model: FrozenGrounding, count: int) -> list[float]:
    """Losses of so many epochs of plain gradient descent; frozen networks fail after the first."""
    cases, losses = setup.cases(), []
    trained = [p for p in model.parameters() if p.requires_grad]
    descent = torch.optim.SGD(trained, lr=0.001)
    for epoch in range(count):
        for batch in (cases[:2], cases[2:]):
            out = model.train()(**setup.batch(batch, model.cache).inputs)
            descent.zero_grad()
            out.loss_sum.backward()
            descent.step()
            losses.append(out.loss_sum.item())
        if epoch == 0 and model.cache is not None:
            forbid(model)
    return losses


def forbid(model: FrozenGrounding) -> None:
    def fail(*_: Any) -> None:
        raise AssertionError("a frozen network was run")

    assert model.refiner is not None and model.cache is not None
    model.refiner._encode = fail  # type: ignore[method-assign, assignment]
    if model.cache.texts:
        for module in model.lmm.model.modules():
            module.forward = fail


@pytest.fixture
def free(tiny: Setup) -> Any:
    """The model, which is shared: its modules may be forbidden to run for a while."""
    yield tiny
    for module in tiny.adapter.model.modules():
        vars(module).pop("forward", None)


REFINERS: dict[str, Callable[[], Refiner]] = {
    "sam": lambda: SamRefiner(sam=tiny_sam()),
    "sam2": lambda: Sam2Refiner(sam=tiny_sam2()),
}


@pytest.mark.parametrize("refiner", REFINERS.values(), ids=REFINERS)
def test_later_epochs_skip_the_frozen_encoder_to_the_same_bits(
    free: Setup, tmp_path: Path, refiner: Callable[[], Refiner]
) -> None:
    without = epochs(free, free.model(refiner=refiner()), 3)
    model = free.model(refiner=refiner(), cache=FeatureCache(tmp_path))
    assert epochs(free, model, 3) == without
    assert len(set(without)) == 6


@pytest.mark.parametrize("selector", [False, True])
def test_later_epochs_skip_both_frozen_networks(
    free: Setup, tmp_path: Path, selector: bool
) -> None:
    without = epochs(free, free.model(selector=selector), 3)
    cache = FeatureCache(tmp_path, texts=True)
    found = epochs(free, free.model(selector=selector, cache=cache), 3)
    assert found == pytest.approx(without, rel=2e-4)


def test_what_was_kept_and_what_is_new_make_one_batch(tiny: Setup, tmp_path: Path) -> None:
    model = tiny.model(cache=FeatureCache(tmp_path, texts=True))
    cases, cache = tiny.cases(), model.cache
    plain = tiny.model()(**tiny.batch(cases).inputs)
    model(**tiny.batch(cases[1:2]).inputs)
    inputs = tiny.batch(cases, cache).inputs
    assert [t.document for t in inputs["targets"]] == [0, None, 1]
    assert [p.numel() > 0 for p in inputs["pictures"]] == [True, False, True]
    mixed = model(**inputs)
    assert mixed.loss_sum.item() == pytest.approx(plain.loss_sum.item(), rel=1e-4)
    inputs = tiny.batch(cases, cache).inputs
    assert inputs["row"] is None
    assert model(**inputs).loss_sum.item() == mixed.loss_sum.item(), "kept and new: the same bits"
    predicted = model.eval().predict(**inputs)
    assert [tuple(p.shape) for p in predicted] == [tuple(case.masks.shape) for case in cases]


def test_training_goes_on_when_the_disk_is_full(
    tiny: Setup, tmp_path: Path, caplog: Warnings, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny.model(cache=FeatureCache(tmp_path, texts=True))
    written: list[Path] = []
    write = cache_module.write_bytes

    def full(path: Path, data: bytes) -> None:
        if len(written) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        written.append(path)
        write(path, data)

    monkeypatch.setattr(cache_module, "write_bytes", full)
    losses = [
        model(**tiny.batch(tiny.cases(), model.cache).inputs).loss_sum.item() for _ in range(2)
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert len(list(tmp_path.rglob("*.safetensors"))) == 2
    assert [r.levelname for r in caplog.records] == ["WARNING"]


def test_other_networks_have_other_folders(tmp_path: Path) -> None:
    def folders(change: Callable[[Setup], dict[str, Any]]) -> dict[str, str]:
        setup, cache = deepseek(), FeatureCache(tmp_path, texts=True)
        setup.model(cache=cache, **change(setup))
        return {kind: cache._homes[kind].name for kind in cache.kinds}

    def tuned(setup: Setup) -> dict[str, Any]:
        with torch.no_grad():
            setup.adapter.decoder.layers[1].mlp.up_proj.weight.add_(0.01)
        return {}

    def prepared(setup: Setup) -> dict[str, Any]:
        setup.builder.image_processor.min_size = 20
        return {}

    plain = folders(lambda _: {})
    assert folders(lambda _: {"seed": 3}) == plain, "trained weights do not matter"
    sam = folders(lambda _: {"sam": tiny_sam(seed=1)})
    assert sam["image"] != plain["image"] and sam["text"] == plain["text"]
    changes: list[Callable[[Setup], dict[str, Any]]] = [
        tuned,
        prepared,
        lambda _: {"merge": "max"},
        lambda _: {"selector": True},
    ]
    others = [folders(change) for change in changes]
    assert {found["image"] for found in others} == {plain["image"]}
    assert len({plain["text"], *(found["text"] for found in others)}) == 5
    assert folders(lambda _: {"refiner": None}) == {"text": plain["text"]}


def test_a_trained_encoder_is_not_cached(tiny: Setup, tmp_path: Path) -> None:
    refiner = SamRefiner(sam=tiny_sam(), freeze_encoder=False)
    model = tiny.model(refiner=refiner, cache=FeatureCache(tmp_path))
    model(**tiny.batch(tiny.cases()).inputs).loss_sum.backward()
    assert model.cache is not None and model.cache.kinds == () and not list(tmp_path.iterdir())
    assert refiner.sam.vision_encoder.pos_embed.grad.any()


# -- what a text is kept as ----------------------------------------------------------------------


def test_half_precision_keeps_small_probabilities() -> None:
    torch.manual_seed(0)
    maps = torch.rand(3, 5, 8, 8) * torch.logspace(-9, 0, 5)[:, None, None]
    maps[0, 0] = 0
    hidden = torch.randn(2, 4, 6)
    masks = torch.tensor([0, 2, 1, -1])
    sight = Sight(maps, (-1.5, 0.0, 10.0, 7.0), hidden, masks)
    found = unpacked(packed(sight), torch.device("cpu"))
    peak = maps.amax((2, 3), keepdim=True)
    assert ((found.maps - maps).abs() <= 4.9e-4 * maps + 3.1e-8 * peak).all()
    assert ((found.hidden.float() - hidden).abs() <= 2.0**-8 * hidden.abs()).all()
    assert found.canvas == sight.canvas and torch.equal(found.masks, masks)
    again = unpacked(packed(found), torch.device("cpu"))
    assert torch.equal(again.maps, found.maps) and torch.equal(again.hidden, found.hidden)


@pytest.mark.parametrize("family", ["deepseek_vl", "llava_next"])
@pytest.mark.parametrize("selector", [False, True])
def test_the_bytes_of_a_text_are_known_beforehand(
    family: str, selector: bool, tiny: Setup, tmp_path: Path
) -> None:
    setup = tiny if family == "deepseek_vl" else llava_next(tmp_path)
    model = setup.model(selector=selector)
    for case in setup.cases():
        inputs = setup.batch([case]).inputs
        rows = inputs["caption_rows"], inputs["caption_masks"]
        (sight,) = look(model.lmm, inputs["row"], *rows, inputs["targets"])
        sight = sight if selector else sight.named()
        views = inputs["targets"][0].views
        expected = num_bytes(packed(sight))
        assert model.text_bytes(views, len(case.masks), len(sight.masks)) == expected
