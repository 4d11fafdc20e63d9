"""``inlay push`` and the model card: what others get to read, and who."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from runs import inlay, look_here, train, write_config

from inlay.cli import main
from inlay.convert.card import model_card
from inlay.convert.folder import RECORD

SECRET = "hf_" + "A1b2" * 8


class FakeHub:
    """Takes the place of ``huggingface_hub.HfApi``."""

    calls: list[tuple[str, Any]] = []
    is_public = False

    def create_repo(self, repo_id: str, private: bool, exist_ok: bool) -> Any:
        self.calls.append(("create", private))
        return type("Url", (str,), {"repo_id": repo_id})(f"https://hub/{repo_id}")

    def repo_info(self, repo_id: str) -> Any:
        return SimpleNamespace(private=not self.is_public)

    def upload_folder(self, repo_id: str, folder_path: str, commit_message: str) -> None:
        self.calls.append(("upload", sorted(p.name for p in Path(folder_path).iterdir())))


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> type[FakeHub]:
    import huggingface_hub

    fresh = type("Fresh", (FakeHub,), {"calls": []})
    monkeypatch.setattr(huggingface_hub, "HfApi", fresh)
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: "token")
    return fresh


@pytest.fixture
def export(tmp_path: Path) -> Path:
    folder = tmp_path / "export"
    folder.mkdir()
    (folder / RECORD).write_text("{}")
    (folder / "README.md").write_text("# A model\n")
    return folder


def test_private_unless_it_may_be_public(
    export: Path, hub: type[FakeHub], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["push", str(export), "me/tiny"]) == 0
    assert capsys.readouterr().out == "https://hub/me/tiny\n"
    assert hub.calls == [("create", True), ("upload", ["README.md", RECORD])]
    hub.is_public = True
    assert main(["push", str(export), "me/tiny"]) == 1
    assert "is public" in capsys.readouterr().err
    assert [name for name, _ in hub.calls] == ["create", "upload", "create"]
    assert main(["push", str(export), "me/tiny", "--public"]) == 0
    assert hub.calls[-2:] == [("create", False), ("upload", ["README.md", RECORD])]


def test_refusals(
    export: Path,
    hub: type[FakeHub],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refused(folder: Path) -> str:
        assert main(["push", str(folder), "me/tiny"]) == 1
        return " ".join(capsys.readouterr().err.split())

    assert "expected an export" in refused(tmp_path)
    (export / "xtuner_config.py").write_text(f"a = 1\nlogin(token='{SECRET}')\n")
    assert "xtuner_config.py, line 2 holds a secret" in refused(export)
    (export / "xtuner_config.py").unlink()
    import huggingface_hub

    def fails(self: Any, **_: Any) -> None:
        raise ConnectionError(f"403 for Bearer {SECRET}\nand a page of HTML")

    monkeypatch.setattr(hub, "upload_folder", fails)
    said = refused(export)
    assert "is not uploaded to me/tiny: 403 for" in said and SECRET not in said
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    assert "not logged in" in refused(export)
    assert [name for name, _ in hub.calls] == ["create"], "all else before the hub is asked"


def test_secrets_do_not_reach_a_card() -> None:
    text = model_card("x", "model", None, {"Note": f"by {SECRET}", "Data": [{"source": SECRET}]})
    assert SECRET not in text and text.count("[redacted]") == 2


def test_the_card_of_a_run(tiny_model: Path, tmp_path: Path) -> None:
    settings = {"val_fraction": 0.2, "save_steps": 2, "val_interval": 1}
    config = write_config(tmp_path, tiny_model, **settings)
    config.write_text(f"{config.read_text()}\nmark = 'token={SECRET}'\n")
    work_dir = tmp_path / "w"
    train(config, work_dir)
    judged = {"step": 2, "eval/vqa/accuracy": 0.25, "axis": "evaluation"}
    late = {"step": 99, "eval/vqa/accuracy": 0.75, "axis": "evaluation"}
    (scalars,) = work_dir.glob("*/vis_data/scalars.json")
    with scalars.open("a") as file:
        file.write("".join(json.dumps(line) + "\n" for line in (judged, late)))
    out = tmp_path / "out"
    last = (work_dir / "last_checkpoint").read_text().strip()
    words = ["convert", "pth_to_hf", config, work_dir / last, out]
    code, text = inlay(words, tmp_path, look_here)
    assert code == 0, text
    card = (out / "README.md").read_text()
    number = re.fullmatch(r"iter_(\d+)", last)
    assert number and f"| Iterations | {number[1]} |" in card
    assert re.search(r"\| rows\.json \| 30 \| [0-9a-f]{16} \|", card), card
    assert re.search(r"\| Fingerprint of the data \| [0-9a-f]+ \|", card)
    assert re.search(r"\| Versions \| inlay .*, torch .*, transformers .*, peft .* \|", card)
    assert re.search(r"\| val/loss \| [\d.]+ \| \d+ \|", card), card
    assert "| eval/vqa/accuracy | 0.25 | 2 |" in card and "0.75" not in card
    assert SECRET not in card + (out / "xtuner_config.py").read_text()
    assert str(tmp_path) not in card
