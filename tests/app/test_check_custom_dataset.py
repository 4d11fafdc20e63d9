"""`inlay check-custom-dataset`: the stages of a few rows, what fits them, and bad rows by name."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

import pytest
from runs import row, write_config, write_rows

from inlay.app.check_custom_dataset import draw
from inlay.cli import main
from inlay.data.json_rows import Row

ALPACA = [{"instruction": f"Say {i}", "input": "", "output": f"{i}"} for i in range(12)]


def check(config: Path, *options: str) -> int:
    return main(["check-custom-dataset", str(config), *options])


def stage(text: str, title: str) -> str:
    """The line under a stage's heading."""
    lines = text.splitlines()
    (at,) = [i for i, line in enumerate(lines) if line.startswith("####") and title in line]
    return lines[at + 1]


def test_every_stage_of_good_rows(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_rows(tmp_path / "rows.json", [row(i) for i in range(12)])
    assert check(write_config(tmp_path, tiny_model, data)) == 0
    out = capsys.readouterr().out
    assert "10 rows drawn" in out and "format: openai, found from the rows" in out
    assert "formats that fit all of these rows, the likeliest first: openai" in out
    number = int(out.split("first good row: ")[1].split("line ")[1].split()[0])
    assert number == 1, "one array on one line"
    said = ast.literal_eval(stage(out, "dataset after `dataset_map_fn`"))
    assert [m["role"] for m in said] == ["user", "assistant"]
    text = stage(out, "dataset after adding templates")
    assert text == "<|im_start|>user"
    ids, labels = (ast.literal_eval(stage(out, f"encoded {x}")) for x in ("input_ids", "labels"))
    assert len(ids) == len(labels) and labels[0] == -100
    assert [b for b in labels if b != -100] == ids[len(ids) - sum(b != -100 for b in labels) - 1 :][
        :-1
    ], "the answer and its stop token; the line break behind them is not trained"
    packed, packed_labels = (
        ast.literal_eval(stage(out, f"{x} after packed to max_length"))
        for x in ("input_ids", "labels")
    )
    assert len(ids) < len(packed) == len(packed_labels) <= 96
    assert "do not see each other" in out
    assert "train: " in out and "12 rows read, 12 kept" in out


def test_bad_rows_are_named_by_line(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "rows.jsonl"
    lines = [json.dumps(r) for r in ALPACA[:3]]
    data.write_text("\n".join([lines[0], '{"instruction": "x"}', lines[1], "{", lines[2]]))
    config = write_config(tmp_path, tiny_model, data)
    assert check(config) == 1, "training would refuse these data, too"
    out, err = capsys.readouterr()
    assert "format: alpaca, found from the rows" in out
    assert f"bad row: {data}, line 2: " in out and f"bad row: {data}, line 4: malformed" in out
    assert "2 of 5 rows cannot be used" in err


def test_rows_of_another_format(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_rows(tmp_path / "rows.json", ALPACA)
    config = write_config(tmp_path, tiny_model, data)
    text = config.read_text().replace("dict(path=data_path)", 'dict(path=data_path, format="sql")')
    config.write_text(text)
    assert check(config) == 1
    out, err = capsys.readouterr()
    assert "format: sql, as the config has it" in out
    assert (
        "formats that fit all of these rows, the likeliest first: alpaca (alpaca_map_fn), " in out
    )
    assert "none of 10 rows can be used as 'sql'" in err and err.count(f"{data}, line 1: ") == 10
    assert "Traceback" not in err


def test_options_and_other_data_sets(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_rows(tmp_path / "rows.json", ALPACA)
    config = write_config(tmp_path, tiny_model, data)
    assert check(config, "--cfg-options", "pack_to_max_length=False") == 0
    assert "after packed" not in capsys.readouterr().out
    text = config.read_text().replace("type=ChatDataset, ", "type=StreamDataset, ")
    text = text.replace("import ChatDataset", "import StreamDataset")
    text = text.replace("pack_to_max_length=pack_to_max_length,", "")
    config.write_text(text)
    assert check(config) == 1
    assert "check-custom-dataset looks at rows of a ChatDataset" in capsys.readouterr().err
    assert check(tmp_path / "none.py") == 1


def test_drawn_rows_are_random_and_always_the_same() -> None:
    def rows(count: int) -> Any:
        return (Row("f", i, i) for i in range(count))

    drawn = [r.value for r in draw(rows(1000), 10)]
    assert drawn == [r.value for r in draw(rows(1000), 10)] == sorted(drawn)
    assert len(set(drawn)) == 10 and max(drawn) > 500 and drawn != list(range(10))
    assert [r.value for r in draw(rows(4), 10)] == [0, 1, 2, 3]
