from __future__ import annotations

import json

import pytest

from inlay.core.errors import ConfigError, DataError
from inlay.data import json_rows
from inlay.data.json_rows import read_json, read_jsonl
from inlay.data.sources import Source, open_source, parse_sources

ROWS = [{"text": f"row {i} é\n"} for i in range(5)]


def rows_of(path, **options):
    return list(open_source(Source(str(path), **options)).rows())


def test_json_array_in_small_blocks(tmp_path, monkeypatch):
    """Rows, and the lines they start on, do not depend on where the blocks end."""
    path = tmp_path / "a.json"
    path.write_text(json.dumps(ROWS, indent=1, ensure_ascii=False))
    for size in (1, 2, 7, 1 << 20):
        monkeypatch.setattr(json_rows, "_BLOCK", size)
        found = list(read_json(str(path)))
        assert [row.value for row in found] == ROWS
        assert [row.line for row in found] == [2, 5, 8, 11, 14]


def test_json_objects_one_after_the_other(tmp_path):
    path = tmp_path / "a.json"
    path.write_text("\n".join(map(json.dumps, ROWS)))
    assert [row.value for row in read_json(str(path))] == ROWS


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[\n {"a": 1},\n {"a": }\n]', "line 3, column 8"),
        ('[\n {"a": 1}\n {"a": 2}\n]', "line 3, column 2.*expected ',' or ']'"),
        ('[{"a": 1}', "expected ',' or ']'"),
        ('[{"a": "x', "line 1, column 8.*Unterminated string"),
        ('[{"a": 1}]\n[{"a": 2}]', "line 2.*rename the file to .jsonl"),
        ("", "file is empty"),
    ],
)
def test_malformed_json(tmp_path, text, message):
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(DataError, match=f"(?s)a.json.*{message}"):
        list(read_json(str(path)))


def test_text_that_is_not_utf8(tmp_path):
    (tmp_path / "a.json").write_bytes(b'[{"a": "\xff"}]')
    with pytest.raises(DataError, match="not UTF-8"):
        list(read_json(str(tmp_path / "a.json")))
    (tmp_path / "a.jsonl").write_bytes(b'{"a": "\xff"}\n{"a": 1}\n')
    bad, good = read_jsonl(str(tmp_path / "a.jsonl"))
    assert "unreadable" in bad.problem
    assert good.value == {"a": 1}


def test_jsonl_bad_lines_keep_their_place(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"a": 1}\n\n{"a": \n{"a": 2}\n')
    first, bad, last = rows_of(path)
    assert (first.line, bad.line, last.line) == (1, 3, 4)
    assert bad.problem.startswith("malformed JSON at column")


@pytest.mark.shared
def test_pretty_printed_jsonl(shared_data):
    path = shared_data / "text" / "malformed_pretty_printed.jsonl"
    with pytest.raises(DataError, match=r"malformed_pretty_printed.jsonl, line 1.*\.json"):
        rows_of(path)


def test_parquet_folders_lists_and_globs(tmp_path):
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), tmp_path / "b.parquet")
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, ROWS)))
    (tmp_path / "notes.md").write_text("not data")
    both = [tmp_path / "a.jsonl", tmp_path / "b.parquet"]
    expected = [(str(path), i + 1, row) for path in both for i, row in enumerate(ROWS)]
    for path in (tmp_path, tmp_path / "*.[jp]*"):
        assert [row[:3] for row in rows_of(path)] == expected
    listed = Source([str(path) for path in both])
    assert [row[:3] for row in open_source(listed).rows()] == expected
    (tmp_path / "b.parquet").write_bytes(b"broken")
    with pytest.raises(DataError, match=r"b\.parquet.*not a readable parquet"):
        rows_of(tmp_path / "b.parquet")


def test_saved_datasets(tmp_path):
    import datasets

    data = datasets.Dataset.from_list(ROWS)
    data.save_to_disk(str(tmp_path / "one"))
    datasets.DatasetDict(train=data, test=data.select([0])).save_to_disk(str(tmp_path / "two"))
    assert [row.value for row in rows_of(tmp_path / "one")] == ROWS
    assert len(rows_of(tmp_path / "two", split="test")) == 1
    with pytest.raises(DataError, match=r"no split 'tset'.*Did you mean 'test'"):
        rows_of(tmp_path / "two", split="tset")


def test_content_follows_bytes_not_names(tmp_path):
    for name in ("a", "b", "c"):
        (tmp_path / f"{name}.jsonl").write_text('{"text": "%s"}' % ("x" if name == "c" else "y"))
    a, b, c = (open_source(Source(str(tmp_path / f"{n}.jsonl"))).content() for n in "abc")
    assert a == b != c


def test_missing(tmp_path):
    (tmp_path / "alpaca.json").write_text("[]")
    with pytest.raises(DataError, match=r"Did you mean 'alpaca\.json'"):
        open_source(Source(str(tmp_path / "alpacca.json")))
    with pytest.raises(DataError, match="no file matches"):
        open_source(Source(str(tmp_path / "*.parquet")))
    with pytest.raises(DataError, match="neither a local file"):
        open_source(Source("nobody/has-this-data-set"))
    (tmp_path / "folder").mkdir()
    with pytest.raises(DataError, match=r"holds no \.json"):
        open_source(Source(str(tmp_path / "folder")))
    (tmp_path / "a.csv").write_text("a,b")
    with pytest.raises(DataError, match=r"found '\.csv'"):
        open_source(Source(str(tmp_path / "a.csv")))


@pytest.mark.parametrize(
    ("sources", "message"),
    [
        ([], "at least one"),
        ({"pth": "a"}, "Did you mean 'path'"),
        ([{"path": "a", "weight": 1}, {"path": "b"}], "all sources have a weight"),
        ({"path": "a", "weight": 1, "repeat": 2}, "without repeat"),
        ({"path": "a", "repeat": 0}, "above 0"),
    ],
)
def test_bad_sources(sources, message):
    with pytest.raises(ConfigError, match=message):
        parse_sources(sources)
