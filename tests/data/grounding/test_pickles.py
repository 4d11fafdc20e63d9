"""Pickles of references: plain data are read, nothing is run."""

from __future__ import annotations

import collections
import os
import pickle

import numpy as np
import pytest

from inlay.core.errors import DataError
from inlay.data.grounding.pickles import load_pickle


@pytest.fixture
def read(tmp_path):
    def read(data):
        path = tmp_path / "refs.p"
        path.write_bytes(data)
        return load_pickle(path)

    return read


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_plain_data(read, protocol):
    value = [
        {"ref_id": 3, "split": "train", "sentences": [{"raw": "größer", "tokens": ["a"]}]},
        {"box": (1.5, -2, None, True), "set": {1, 2}, "bytes": b"\x00\xff", "big": 1 << 80},
        collections.OrderedDict(a=1),
    ]
    assert read(pickle.dumps(value, protocol)) == value


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("kind", ["i8", "u2", ">i4", "f4", ">f8", "b1"])
def test_numpy_scalars_become_numbers(read, protocol, kind):
    (found,) = read(pickle.dumps([np.array([1], kind)[0]], protocol))
    assert found == 1
    assert type(found) in (int, float, bool)


def test_python_2(read):
    # what Python 2 writes for ["\xc3\xa9"] and for ["\xe9"]: texts of bytes
    assert read(b"(lp0\nS'\\xc3\\xa9'\np1\na.") == ["é"]
    assert read(b"(lp0\nS'\\xe9'\np1\na.") == ["é"]
    scalar = (
        b"cnumpy.core.multiarray\nscalar\n(cnumpy\ndtype\n(S'i8'\nI0\nI1\ntR(I3\nS'<'\nNNNI-1\nI-1"
        b"\nI0\ntbS'\\xff\\x01\\x00\\x00\\x00\\x00\\x00\\x00'\ntR."
    )
    assert read(scalar) == 511


class Call:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_nothing_is_run(read, tmp_path, protocol):
    mark = tmp_path / "mark"
    hostile = [
        Call(os.system, f"touch {mark}"),
        Call(eval, f"open({str(mark)!r}, 'w')"),
        Call(getattr, "text", "upper"),
        Call(np.load, str(mark)),
        Call(bytearray, 1 << 60),
    ]
    for value in hostile:
        with pytest.raises(DataError, match=r"refs\.p' is refused: it names"):
            read(pickle.dumps([{"ref_id": value}], protocol))
    assert not mark.exists()


def test_the_known_names_cannot_be_turned(read):
    objects = b"cnumpy\ndtype\n(S'O'\nI0\nI1\ntR"
    scalar = b"cnumpy.core.multiarray\nscalar\n("
    with pytest.raises(DataError, match="not a number"):
        read(scalar + objects + b"S'abcdefgh'\ntR.")
    for code in (b"i8,O", b"(99999999,)i8", b"i99", b"V8"):
        with pytest.raises(DataError, match=r"not a number|not a readable"):
            read(scalar + objects.replace(b"'O'", b"'" + code + b"'") + b"S'abcdefgh'\ntR.")
    with pytest.raises(DataError, match="not a readable"):
        read(b"cnumpy\ndtype\n(I3\nS'<'\ntb.")  # a state for the class itself


def test_broken_files(read, tmp_path):
    whole = pickle.dumps([{"a": 1}] * 50)
    for data in (b"", whole[:-5], b"not a pickle", b"\x80\x04N"):
        with pytest.raises(DataError, match="not a readable pickle"):
            read(data)
    with pytest.raises(DataError, match="outside of the file"):
        read(b"Pname\n.")
    with pytest.raises(DataError, match="cannot be read"):
        load_pickle(tmp_path / "none.p")
