"""Files of others: what torch wrote comes back the same, and hostile ones do nothing."""

from __future__ import annotations

import collections
import contextlib
import copyreg
import functools
import io
import os
import pickle
import struct
import subprocess
import sys
import types
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from inlay.core.errors import CheckpointError
from inlay.core.torch_file import load_torch
from inlay.core.unpickle import Inert

FORMATS = (True, False)
"""torch's zip file, and the format before it."""


def save(value: Any, path: Path, is_zip: bool = True) -> Path:
    torch.save(value, path, _use_new_zipfile_serialization=is_zip)
    return path


# -- what torch writes ------------------------------------------------------------------------

DTYPES = [
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.complex64),
    *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool),
]


@pytest.mark.parametrize("is_zip", FORMATS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_type_of_tensor(tmp_path: Path, dtype: torch.dtype, is_zip: bool) -> None:
    whole = (torch.arange(24).reshape(4, 6) % 7).to(dtype)
    value = {"whole": whole, "turned": whole.t(), "part": whole[1::2, 2:5], "one": whole[2, 3]}
    value |= {"none": whole[:0], "spread": whole[:1].expand(3, 6)}
    found = load_torch(save(value, tmp_path / "x.pth", is_zip))
    for name, tensor in value.items():
        assert found[name].dtype is dtype, name
        assert torch.equal(found[name], tensor), name
        assert found[name].stride() == tensor.stride(), name
    assert found["turned"].data_ptr() == found["whole"].data_ptr()  # one storage, as before
    found["whole"][0, 1] = found["whole"][3, 3]
    assert found["turned"][1, 0] == found["whole"][3, 3]


def test_types_without_a_class_of_storages(tmp_path: Path) -> None:
    value = [torch.arange(5).to(torch.uint16), torch.ones(3).to(torch.float8_e4m3fn)]
    found = load_torch(save(value, tmp_path / "x.pt"))
    assert [t.dtype for t in found] == [torch.uint16, torch.float8_e4m3fn]
    assert torch.equal(found[0], value[0])
    assert torch.equal(found[1].view(torch.uint8), value[1].view(torch.uint8))


@pytest.mark.parametrize("is_zip", FORMATS)
def test_what_stands_beside_tensors(tmp_path: Path, is_zip: bool) -> None:
    value = {
        "ordered": collections.OrderedDict(b=1, a=2),
        "default": collections.defaultdict(list, {"x": [1]}),
        "plain": [
            1,
            2.5,
            "größer",
            None,
            True,
            (1, (2,)),
            {3},
            frozenset({4}),
            b"\x00\xff",
            1 << 80,
        ],
        "size": torch.Size([2, 3]),
        "dtype": torch.bfloat16,
        "device": torch.device("cuda", 1),
        "scalar": np.float64(1.5),
        "array": np.arange(6, dtype=np.int16).reshape(2, 3).T,
        "swapped": np.arange(3, dtype=">i4"),
        "flags": np.array([True, False]),
    }
    found = load_torch(save(value, tmp_path / "x.bin", is_zip))
    assert found["ordered"] == {"b": 1, "a": 2}
    assert list(found["ordered"]) == ["b", "a"]
    assert found["default"] == {"x": [1]}
    assert found["plain"] == value["plain"]
    assert found["size"] == torch.Size([2, 3])
    assert found["dtype"] is torch.bfloat16
    assert found["device"] == "cuda:1"
    assert found["scalar"] == 1.5
    for name in ("array", "swapped", "flags"):
        np.testing.assert_array_equal(found[name], value[name])


def test_modules_and_optimizers(tmp_path: Path) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    model(torch.randn(4, 3)).sum().backward()
    optimizer.step()
    value = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "parameter": torch.nn.Parameter(torch.ones(2)),
    }
    found = load_torch(save(value, tmp_path / "x.pth"))
    twin = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    twin.load_state_dict(found["model"])
    other = torch.optim.AdamW(twin.parameters(), lr=9.0)
    other.load_state_dict(found["optimizer"])
    assert other.param_groups[0]["lr"] == 0.1
    for a, b in zip(optimizer.state.values(), other.state.values(), strict=True):
        assert torch.equal(a["exp_avg_sq"], b["exp_avg_sq"])
    assert type(found["parameter"]) is torch.Tensor
    assert not found["parameter"].requires_grad


def test_the_file_is_mapped_and_stays_as_it_is(tmp_path: Path) -> None:
    path = save({"a": torch.zeros(1 << 20)}, tmp_path / "x.pth")
    before = path.read_bytes()
    tensor = load_torch(path)["a"]
    tensor.fill_(7.0)
    assert path.read_bytes() == before
    assert tensor.sum() == 7 << 20


@pytest.fixture
def tools() -> Iterator[Callable[[str], type]]:
    """Makes classes that seem to be of other packages; they are gone when the test reads."""
    made = []

    def make(full: str) -> type:
        module, _, name = full.rpartition(".")
        words = module.split(".")
        for count in range(1, len(words) + 1):
            part = ".".join(words[:count])
            sys.modules[part] = types.ModuleType(part)
            made.append(part)
        cls = type(name, (dict,) if name == "ConfigDict" else (), {"__module__": module})
        setattr(sys.modules[module], name, cls)
        return cls

    yield make
    for module in made:
        sys.modules.pop(module, None)


def test_objects_of_training_tools_become_inert(tmp_path: Path, tools: Any) -> None:
    history = tools("mmengine.logging.history_buffer.HistoryBuffer")()
    history.values = np.arange(3.0)
    config = tools("mmengine.config.config.ConfigDict")(a=1)
    scaler = tools("deepspeed.runtime.fp16.loss_scaler.LossScaler")()
    scaler.cur_scale = 4.0
    path = save({"history": history, "config": config, "scaler": scaler}, tmp_path / "x.pth")
    found = load_torch(path)
    assert isinstance(found["history"], Inert)
    assert found["history"].name == "mmengine.logging.history_buffer.HistoryBuffer"
    np.testing.assert_array_equal(found["history"]["values"], [0, 1, 2])
    assert found["config"] == {"a": 1}
    assert found["scaler"] == {"cur_scale": 4.0}


# -- hostile files ----------------------------------------------------------------------------


class Call:
    """Pickles as a call."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


def zip_of(data: bytes, path: Path, more: dict[str, bytes] | None = None) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", data)
        archive.writestr("archive/version", b"3")
        for name, content in (more or {}).items():
            archive.writestr(name, content)
    return path


def text(word: str) -> bytes:
    """The opcode that pushes a text."""
    return b"X" + struct.pack("<I", len(word)) + word.encode()


def payloads(mark: str) -> dict[str, bytes]:
    """Pickles that would make the file ``mark``, in many ways."""
    touch = f"touch {mark}"
    write = f"open({mark!r}, 'w')"
    inner = pickle.dumps(Call(os.system, touch))
    arguments = b"(" + text(touch) + b"t"  # a tuple of one text
    dump = functools.partial(pickle.dumps, protocol=2)
    rebuild = b"ctorch._utils\n_rebuild_tensor_v2\n"
    typed = b"ctorch._tensor\n_rebuild_from_type_v2\n"
    array = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR"
    objects = b"cnumpy\ndtype\n(S'O'\nI0\nI1\ntR"
    return {
        "a call": dump(Call(os.system, touch)),
        "deep inside": dump({"state_dict": {"a": [({1: Call(eval, write)},)]}}),
        "exec": dump(Call(exec, write)),
        "import": dump(Call(__import__, "antigravity")),
        "a process": dump(Call(subprocess.Popen, ["touch", mark])),
        "bytes of a storage": dump(Call(torch.storage._load_from_bytes, inner)),
        "a partial": dump(Call(functools.partial, os.system, touch)),
        "copyreg": dump(Call(copyreg._reconstructor, subprocess.Popen, object, None)),
        "pickle in a pickle": dump(Call(pickle.loads, inner)),
        "INST": b"(" + text(touch) + b"ios\nsystem\n.",
        "OBJ": b"(cos\nsystem\n" + text(touch) + b"o.",
        "STACK_GLOBAL": b"\x80\x04" + text("os") + text("system") + b"\x93" + arguments + b"R.",
        "a name with dots": b"\x80\x04"
        + text("torch")
        + text("os.system")
        + b"\x93"
        + arguments
        + b"R.",
        "NEWOBJ": b"\x80\x02csubprocess\nPopen\n" + arguments + b"\x81.",
        "NEWOBJ_EX": b"\x80\x04csubprocess\nPopen\n" + arguments + b"}\x92.",
        "an extension code": b"\x82\xf7" + arguments + b"R.",
        "attributes of a class": b"ccollections\nOrderedDict\n}"
        + text("items")
        + text("x")
        + b"sb.",
        "attributes of a tool's class": b"cdeepspeed.x\nY\n}" + text("a") + text("x") + b"sb.",
        "a call of what getattr gives": b"c__builtin__\ngetattr\n(cmmengine.x\nos\n"
        + text("system")
        + b"tR"
        + arguments
        + b"R.",
        "a call of a text": text("os.system") + arguments + b"R.",
        "a tensor of no storage": rebuild + b"(cmmengine.x\nY\nI0\n(I1\nt(I1\ntI00\n}tR.",
        "a tensor made by a call": typed + b"(cos\nsystem\nctorch\nTensor\n" + arguments + b"}tR.",
        "a storage of another kind": b"("
        + text("storage")
        + text("os.system")
        + b"S'0'\nS'cpu'\nI1\ntQ.",
        "an array of objects": array + b"(I1\n(I1\nt" + objects + b"I00\n(lcos\nsystem\natb.",
        "numpy's loader": b"cnumpy.testing._private.utils\nrunstring\n(" + text(write) + b"}tR.",
        "torch's runner": b"ctorch.jit._script\nexec\n(" + text(write) + b"tR.",
    }


@pytest.mark.parametrize("kind", payloads("mark"))
def test_hostile_pickles_do_nothing(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark = tmp_path / "mark"
    monkeypatch.setitem(copyreg._inverted_registry, 0xF7, ("os", "system"))  # type: ignore[attr-defined]
    monkeypatch.setitem(copyreg._extension_cache, 0xF7, os.system)  # type: ignore[attr-defined]
    monkeypatch.delitem(sys.modules, "antigravity", raising=False)
    data = payloads(str(mark))[kind]
    legacy = b"".join(pickle.dumps(v, 2) for v in (0x1950A86A20F9469CFC6C, 1001, {}))
    (tmp_path / "old.pth").write_bytes(legacy + data + pickle.dumps([], 2))
    for path in (zip_of(data, tmp_path / "new.pth"), tmp_path / "old.pth"):
        with pytest.raises(CheckpointError, match=rf"{path.name}' is (refused: it|damaged)"):
            load_torch(path)
    assert not mark.exists()
    assert "antigravity" not in sys.modules


def test_payloads_are_sharp(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    for kind in ("a call", "INST", "OBJ", "STACK_GLOBAL"):
        assert not mark.exists()
        with contextlib.suppress(pickle.UnpicklingError):
            pickle.loads(payloads(str(mark))[kind])
        assert mark.exists(), kind
        mark.unlink()


def test_the_error_names_file_and_name(tmp_path: Path) -> None:
    path = zip_of(pickle.dumps(Call(os.system, "true"), 2), tmp_path / "evil.pth")
    with pytest.raises(CheckpointError) as caught:
        load_torch(path)
    assert str(caught.value).startswith(f"'{path}' is refused: it names posix.system. Only tensors")


def test_entries_with_paths_are_not_unpacked(tmp_path: Path) -> None:
    inside = tmp_path / "deep" / "er"
    inside.mkdir(parents=True)
    data = pickle.dumps({"a": 1}, 2)
    more = {"../../evil": b"x", "/tmp/inlay_evil": b"x", "archive/data/../../../evil": b"x"}
    assert load_torch(zip_of(data, inside / "x.pth", more)) == {"a": 1}
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["deep", "er", "x.pth"]


# -- damage -----------------------------------------------------------------------------------


def test_damage_is_found(tmp_path: Path) -> None:
    tensor = torch.arange(100.0)
    for is_zip in FORMATS:
        path = save({"a": tensor}, tmp_path / "x.pth", is_zip)
        whole = path.read_bytes()
        for cut in (0, 10, len(whole) // 2, len(whole) - 30):
            path.write_bytes(whole[:cut])
            with pytest.raises(CheckpointError, match="is damaged"):
                load_torch(path)
    path = save({"a": tensor}, tmp_path / "x.pth")
    whole = bytearray(path.read_bytes())
    at = whole.index(tensor.numpy().tobytes()) + 40
    whole[at] ^= 1
    path.write_bytes(whole)
    with pytest.raises(CheckpointError, match="'data/0' does not match its checksum"):
        load_torch(path)


def rewritten(path: Path, **changes: Any) -> Path:
    """The same archive with some entries left out, replaced or compressed."""
    with zipfile.ZipFile(path) as old:
        content = {n: old.read(n) for n in old.namelist()}
    with zipfile.ZipFile(path, "w", changes.get("compression", zipfile.ZIP_STORED)) as new:
        for name, data in content.items():
            if not name.endswith(changes.get("without", "?")):
                new.writestr(name, data)
    return path


def test_archives_that_torch_does_not_write(tmp_path: Path) -> None:
    path = save({"a": torch.arange(100.0)}, tmp_path / "x.pth")
    assert torch.equal(load_torch(rewritten(path))["a"], torch.arange(100.0))  # not aligned
    with pytest.raises(CheckpointError, match="'data/0' is missing"):
        load_torch(rewritten(path, without="/data/0"))
    path = save({"a": torch.arange(100.0)}, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match="is compressed"):
        load_torch(rewritten(path, compression=zipfile.ZIP_DEFLATED))
    with pytest.raises(CheckpointError, match="without one data"):
        load_torch(rewritten(save(1, tmp_path / "y.pth"), without="data.pkl"))


@pytest.mark.parametrize(
    ("offset", "size", "stride"),
    [
        (0, (101,), (1,)),
        (90, (11,), (1,)),
        (0, (2, 60), (60, 1)),
        (-1, (1,), (1,)),
        (0, (2,), (-1,)),
    ],
)
def test_views_that_leave_their_storage(
    tmp_path: Path, offset: int, size: tuple[int, ...], stride: tuple[int, ...]
) -> None:
    class Tensor:
        def __reduce__(self) -> Any:
            return torch._utils._rebuild_tensor_v2, (Storage(), offset, size, stride, False, {})

    class Storage:
        pass

    class Pickler(pickle.Pickler):
        def persistent_id(self, found: Any) -> Any:
            is_storage = isinstance(found, Storage)
            return ("storage", torch.FloatStorage, "0", "cpu", 100) if is_storage else None

    buffer = io.BytesIO()
    Pickler(buffer, 2).dump(Tensor())
    path = zip_of(buffer.getvalue(), tmp_path / "x.pth", {"archive/data/0": bytes(400)})
    with pytest.raises(CheckpointError, match=r"leaves its storage|negative size"):
        load_torch(path)


def test_other_files(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"does not exist: expected a file of torch\.save"):
        load_torch(tmp_path / "gone.pth")
    with pytest.raises(CheckpointError, match="is a folder"):
        load_torch(tmp_path)
    (tmp_path / "plain.pth").write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(CheckpointError, match="neither as a zip file nor"):
        load_torch(tmp_path / "plain.pth")
    script = torch.jit.script(torch.nn.Linear(1, 1))
    script.save(str(tmp_path / "script.pt"))
    with pytest.raises(CheckpointError, match="refused: it is a TorchScript program"):
        load_torch(tmp_path / "script.pt")
