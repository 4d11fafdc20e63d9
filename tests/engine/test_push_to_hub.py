"""The upload after training: what is uploaded, and that no failure costs the run."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from toy import ToyData, build

from inlay.engine import checkpoint as ckpt
from inlay.engine.hooks import CheckpointHook, PushToHubHook
from inlay.engine.settings import TrainLoop


class FakeHub:
    """Takes the place of ``huggingface_hub.HfApi``."""

    calls: list[tuple[str, dict[str, Any]]] = []
    broken = is_public = False

    def create_repo(self, repo_id: str, **settings: Any) -> Any:
        if self.broken:
            raise ConnectionError("the hub is down")
        self.calls.append((repo_id, settings))
        self.public = self.is_public or not settings["private"]
        return type("Url", (str,), {"repo_id": f"me/{repo_id}"})("https://hub/me/tiny")

    def repo_info(self, repo_id: str) -> Any:
        return SimpleNamespace(private=not self.public)

    def upload_folder(self, **settings: Any) -> None:
        names = sorted(p.name for p in Path(settings["folder_path"]).iterdir())
        self.calls.append((settings["repo_id"], {"files": names}))


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> type[FakeHub]:
    import huggingface_hub

    class Fresh(FakeHub):
        calls: list[tuple[str, dict[str, Any]]] = []

    monkeypatch.setattr(huggingface_hub, "HfApi", Fresh)
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: "token")
    return Fresh


def export(runner: Any, folder: Path) -> None:
    folder.mkdir()
    torch.save({n: p.data for n, p in runner.named_parameters.items()}, folder / "weights")


def trained(folder: Path, **settings: Any) -> Any:
    hooks = [CheckpointHook(by_epoch=False), PushToHubHook("tiny", export, **settings)]
    loop = TrainLoop(max_iters=12, val_interval=3)
    # So high a rate that the last weights are not the best ones.
    runner = build(folder, hooks, val=ToyData(4), loop=loop, lr=0.5)
    runner.train()
    return runner


def test_the_best_weights_are_uploaded(tmp_path: Path, hub: type[FakeHub]) -> None:
    trained(tmp_path)
    (best,) = tmp_path.glob("best_loss_iter_*")
    assert best.name != "best_loss_iter_12", "the test needs a best that is not the last"
    sent = torch.load(tmp_path / "hub" / "weights")
    assert all(torch.equal(sent[n], w) for n, w in ckpt.load_weights(best).items())
    assert hub.calls == [
        ("tiny", {"private": True, "exist_ok": True}),
        ("me/tiny", {"files": ["weights"]}),
    ]


def test_the_last_weights_on_request(tmp_path: Path, hub: type[FakeHub]) -> None:
    trained(tmp_path, which="last", private=False)
    sent = torch.load(tmp_path / "hub" / "weights")
    assert all(torch.equal(sent[n], w) for n, w in ckpt.load_weights(tmp_path / "iter_12").items())
    assert hub.calls[0][1]["private"] is False


def test_a_repository_that_everybody_sees_is_refused(
    tmp_path: Path, hub: type[FakeHub], caplog: pytest.LogCaptureFixture
) -> None:
    hub.is_public = True
    with caplog.at_level("WARNING"):
        trained(tmp_path)
    assert not any("files" in settings for _, settings in hub.calls), "nothing was uploaded"
    assert any("is public" in r.message for r in caplog.records)


def test_a_hub_that_is_down_is_a_warning(
    tmp_path: Path,
    hub: type[FakeHub],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    import huggingface_hub

    hub.broken = True
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    with caplog.at_level("WARNING"):
        runner = trained(tmp_path)
    assert runner.state.iter == 12 and (tmp_path / "hub" / "weights").exists()
    said = [r.message for r in caplog.records]
    assert any("the hub is down" in text and f"{tmp_path / 'hub'} tiny" in text for text in said)
    assert any("not logged in" in text for text in said)
