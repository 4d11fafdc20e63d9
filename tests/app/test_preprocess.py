"""`inlay preprocess`: arXiv's metadata and RefCOCO become rows to train on."""

from __future__ import annotations

import json
import pickle
import resource
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from inlay.cli import main
from inlay.data.formats import FORMATS, detect_format


def paper(number: int, categories: str = "cs.CL", updated: str = "2021-05-01") -> dict[str, Any]:
    text = {"title": f"Title {number} é", "abstract": f"Abstract {number}"}
    return {"id": f"{number}", "categories": categories, "update_date": updated, **text}


def write_lines(path: Path, lines: list[Any]) -> Path:
    texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    path.write_text("\n".join(texts) + "\n", encoding="utf-8")
    return path


def arxiv(*words: str | Path) -> int:
    return main(["preprocess", "arxiv", *map(str, words)])


def test_arxiv_keeps_categories_and_dates(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    papers = [
        paper(0, "cs.CV math.CO", "2020-01-01"),
        paper(1, "cs.CV", "2019-12-31"),
        paper(2, "math.CO"),
        paper(3, "cs.CVX"),
        paper(4, "stat.ML cs.AI"),
    ]
    source = write_lines(tmp_path / "in.json", papers)
    target = tmp_path / "new" / "out.json"
    assert arxiv(source, target) == 0
    assert capsys.readouterr() == (f"Save to {target}\n2 items\n", "")
    kept = json.loads(target.read_text("utf-8"))
    assert kept == [papers[0], papers[4]]
    conversation = FORMATS["arxiv"](kept[0])
    assert [m.content for m in conversation.messages[-2:]] == ["Abstract 0", "Title 0 é"]
    assert arxiv(source, target, "--categories", "math.CO", "--start-date", "2021-05-01") == 0
    assert json.loads(target.read_text("utf-8")) == [papers[2]]


def test_arxiv_names_and_counts_bad_lines(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [
        paper(0),
        '{"cut',
        "[1]",
        {"categories": "cs.CL"},
        paper(1, updated="yesterday"),
        paper(2),
    ]
    source = write_lines(tmp_path / "in.jsonl", lines)
    assert arxiv(source, tmp_path / "out.json") == 0
    out, err = capsys.readouterr()
    assert out.endswith("2 items\n")
    assert [f"{source}, line {n}: " in err for n in range(1, 7)] == [False, *[True] * 4, False]
    assert "4 of 6 lines were left out" in err


def test_arxiv_refusals(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write_lines(tmp_path / "in.json", [paper(0)])
    target = tmp_path / "out.json"
    target.write_text("old")
    assert arxiv(source, target, "--categories", "cs.RO") == 1
    assert "no paper of cs.RO since 2020-01-01 among 1 lines" in capsys.readouterr().err
    assert arxiv(tmp_path / "none.json", target) == 1
    assert target.read_text() == "old" and len(list(tmp_path.iterdir())) == 2
    with pytest.raises(SystemExit) as stop:
        arxiv(source, target, "--start-date", "2020-13-01")
    assert stop.value.code == 2


def test_arxiv_streams(tmp_path: Path) -> None:
    line = json.dumps({**paper(0), "abstract": "x" * 10_000})
    source = tmp_path / "in.json"
    with source.open("w") as file:
        for _ in range(6000):
            file.write(line + "\n")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert arxiv(source, tmp_path / "out.json") == 0
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    assert grown < 25, f"60 MB in, {grown:.0f} MB of memory"


def refcoco(root: Path, name: str = "refcoco", split_by: str = "unc") -> Path:
    """Three references in two splits of one data set."""
    folder = root / "annotations" / name
    folder.mkdir(parents=True)
    pictures = root / "train2017"
    pictures.mkdir(exist_ok=True)
    Image.new("RGB", (200, 100)).save(pictures / "000000000042.jpg")
    image = {"id": 42, "file_name": "COCO_train2014_000000000042.jpg", "width": 200, "height": 100}
    annotation = {"id": 7, "image_id": 42, "bbox": [20, 10, 40.5, 30]}
    instances = {"images": [image], "annotations": [annotation], "categories": []}
    (folder / "instances.json").write_text(json.dumps(instances))
    sentences = [{"raw": "The LEFT cat", "sent": "left cat"}, {"raw": "The LEFT cat"}]
    train = {"ref_id": 1, "split": "train", "image_id": 42, "ann_id": 7, "sentences": sentences}
    refs = [train, {**train, "split": "val"}, {**train, "ann_id": 8}]
    (folder / f"refs({split_by}).p").write_bytes(pickle.dumps(refs, protocol=0))
    return folder


def convert(root: Path) -> int:
    words = ["--ann-path", root / "annotations", "--image-path", root / "train2017"]
    return main(["preprocess", "refcoco", *map(str, words), "--save-path", str(root / "out")])


def test_refcoco_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    refcoco(tmp_path)
    refcoco(tmp_path, "refcocog", "umd")
    assert convert(tmp_path) == 0
    out, err = capsys.readouterr()
    assert out == f"save to {tmp_path / 'out' / 'train.json'} with 2 items.\n"
    assert "refcoco+: not there, left out" in err
    assert "refs(umd).p, row 3: image_id 42 or ann_id 8 is not in instances.json" in err
    rows = json.loads((tmp_path / "out" / "train.json").read_text())
    assert [row["id"] for row in rows] == [
        "refcoco-unc-000000000042-The_LEFT_cat",
        "refcocog-umd-000000000042-The_LEFT_cat",
    ]
    row = rows[0]
    assert row["image"] == "coco/train2017/000000000042.jpg"
    assert (row["sents"], row["bbox"]) == ("The LEFT cat", [20, 10, 40.5, 30])
    assert (row["width"], row["height"]) == (200, 100)
    human, gpt = (turn["value"] for turn in row["conversations"])
    assert human.startswith("[refer] ") and human.endswith("\n<image>") and "The LEFT cat" in human
    assert gpt == "{<10><10><30><40>}", "60.5 of 200 is 30 hundredths"
    assert detect_format(row) == "llava"
    assert FORMATS["llava"](row).messages[1].content == gpt


def test_a_hostile_pickle_does_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    canary = tmp_path / "canary"

    class Evil:
        def __reduce__(self) -> Any:
            return (Path.touch, (canary,))

    folder = refcoco(tmp_path)
    (folder / "refs(unc).p").write_bytes(pickle.dumps([Evil()]))
    assert convert(tmp_path) == 1
    assert "is refused" in capsys.readouterr().err and not canary.exists()


def test_refcoco_refusals(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert convert(tmp_path) == 1
    assert "expected a folder of refcoco, refcoco+, refcocog" in capsys.readouterr().err
    refcoco(tmp_path)
    (tmp_path / "train2017" / "000000000042.jpg").unlink()
    assert convert(tmp_path) == 1
    err = capsys.readouterr().err
    assert "there is no picture" in err and "no reference could be used" in err
    assert not (tmp_path / "out").exists()


@pytest.mark.shared
def test_real_annotations(
    shared_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    real = shared_data / "grounding" / "refcoco"
    folder = tmp_path / "annotations" / "refcoco"
    folder.mkdir(parents=True)
    (folder / "instances.json").symlink_to(real / "instances.json")
    (folder / "refs(unc).p").symlink_to(real / "refs(real).p")
    (tmp_path / "train2017").symlink_to(real / "images")
    assert convert(tmp_path) == 0
    rows = json.loads((tmp_path / "out" / "train.json").read_text())
    refs = json.loads((real / "refs.json").read_text())
    trained = [s for ref in refs if ref["split"] == "train" for s in ref["sentences"]]
    assert 40 < len(rows) <= len(trained)
    for row in rows:
        left, top, right, bottom = map(int, row["conversations"][1]["value"][2:-2].split("><"))
        assert 0 <= left <= right <= 100 and 0 <= top <= bottom <= 100
