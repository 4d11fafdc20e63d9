"""`inlay scenes`: what it writes is what its recipe trains on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from inlay.app.dry_run import dry_run
from inlay.app.scenes import make_scenes
from inlay.cli import main
from inlay.core.errors import InlayError
from inlay.data.scenes.build import SPLITS, row
from inlay.data.scenes.words import scene_tokenizer

RECIPE = "tiny_vlm_full_scenes_e10"


def test_the_recipe_trains_on_what_the_command_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("INLAY_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "scenes"
    assert main(["scenes", str(folder), "--count", "40", "--seed", "3"]) == 0
    assert f"inlay train {RECIPE} --cfg-options data_root={folder}" in capsys.readouterr().out
    sizes = {f.stem: len(f.read_text().splitlines()) for f in folder.glob("*.jsonl")}
    assert sizes == dict.fromkeys(("train", "seen", "pairs", "relations"), 40)
    first = json.loads((folder / "train.jsonl").read_text().splitlines()[0])
    assert first == row("train", 3, 0)[0]
    result = dry_run(RECIPE, [f"data_root={folder}", "val_fraction=0.2"])
    assert 500_000 < result["trainable"] < 1_500_000 and 3 < result["loss"] < 7
    with pytest.raises(InlayError, match="exists"):
        make_scenes(folder, 40, 3)


def test_every_word_of_every_scene_is_one_known_token() -> None:
    tokenizer = scene_tokenizer()
    for split in SPLITS:
        for index in range(60):
            for turn in row(split, 9, index)[0]["conversations"]:
                text = turn["value"].removeprefix("<image>\n")
                ids = tokenizer(text)["input_ids"]
                pieces = tokenizer.convert_ids_to_tokens(ids)
                assert tokenizer.unk_token_id not in ids
                assert not [piece for piece in pieces if piece.startswith("##")]
                assert tokenizer.decode(ids) == text
    odd = tokenizer("Zebra, 7 ÷")["input_ids"]
    assert tokenizer.convert_ids_to_tokens(odd)[:5] == ["z", "##e", "##b", "##r", "##a"]
    assert odd[-1] == tokenizer.unk_token_id
