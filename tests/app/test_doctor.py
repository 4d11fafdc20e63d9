"""`inlay doctor`: finds what is broken, and only that."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from inlay.app.doctor import examine as doctor
from inlay.app.doctor import libraries, machine, packing
from inlay.app.doctor.devices import examine_devices
from inlay.app.doctor.finding import FAIL, OK, WARN, Finding
from inlay.app.doctor.packing import examine_packing

SECRET = "hf_canarycanarycanary"


@pytest.mark.long
def test_a_sound_machine_passes_and_nothing_is_made_or_told(tmp_path: Path) -> None:
    """As a user starts it."""
    env = {
        **os.environ, "INLAY_CACHE": str(tmp_path / "cache"), "HF_TOKEN": SECRET,
        "HF_ENDPOINT": f"https://me:{SECRET}@mirror.example",
    }  # fmt: skip
    command = [sys.executable, "-m", "inlay", "doctor", str(tmp_path / "w"), "--json"]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=280)
    assert "Traceback" not in done.stderr and SECRET not in done.stdout + done.stderr, done.stderr
    said = json.loads(done.stdout)
    assert done.returncode == 0 and said["ok"], said
    found = {f["name"]: f for f in said["findings"]}
    assert "a token is there, at mirror.example" in found["hub"]["text"]
    assert found["peft"]["text"] == "can be imported"
    assert "no sample sees another one" in found["cpu float32"]["text"]
    assert not any(tmp_path.iterdir())


def test_a_torchvision_for_another_torch_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is installed, as far as anyone can see, and raises on import."""
    from inlay.cli import main

    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision" / "__init__.py").write_text(
        "raise RuntimeError('operator torchvision::nms does not exist')"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(libraries, "PROBES", libraries.PROBES[:1])
    (broken,) = libraries.start_probes()
    assert broken.status == FAIL and "pip uninstall torchvision" in broken.advice
    assert broken.text == (
        "is installed, but does not work: RuntimeError: operator torchvision::nms does not exist"
    )
    monkeypatch.setattr(doctor, "examine", lambda _: iter([broken]))
    assert main(["doctor"]) == 1
    assert "  FAIL  torchvision       is installed, but" in capsys.readouterr().out
    assert main(["doctor", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["findings"][0]["status"] == FAIL


# -- packing -------------------------------------------------------------------------------------


def test_packed_samples_are_apart_on_every_device() -> None:
    findings = list(examine_packing())
    assert [f.status for f in findings] == [OK] * len(findings), findings
    gpus = torch.cuda.device_count()
    assert len(findings) == 2 + 3 * gpus


def test_the_proof_finds_attention_that_ignores_the_borders(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from inlay.models import sft

    def one_document(starts: torch.Tensor) -> torch.Tensor:
        return starts[[0, -1]].to(torch.int32).view(1, 1, 1, -1)

    monkeypatch.setattr(sft, "document_mask", one_document)
    findings = list(examine_packing())
    assert {f.status for f in findings} == {FAIL}
    assert all("depends on its neighbours" in f.text for f in findings)
    assert all("its gradient reaches them" in f.text for f in findings)
    assert all("pack_to_max_length=False" in f.advice for f in findings)


def test_the_proof_finds_that_it_is_blind(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tokens that see nothing but themselves prove nothing."""
    from inlay.models import sft

    def alone(starts: torch.Tensor) -> torch.Tensor:
        return torch.arange(int(starts[-1]) + 1, dtype=torch.int32).view(1, 1, 1, -1)

    monkeypatch.setattr(sft, "document_mask", alone)
    findings = list(examine_packing())
    assert all(f.status == FAIL and "the check is blind" in f.text for f in findings)


def test_what_cannot_be_tried_is_a_failure_and_no_crash(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        raise RuntimeError("no kernel image is available\nfor execution")

    monkeypatch.setattr(packing, "tiny_model", broken)
    findings = list(examine_packing())
    assert all(f.status == FAIL for f in findings)
    assert findings[0].text == "could not be tried: RuntimeError: no kernel image is available"


# -- libraries -----------------------------------------------------------------------------------


def test_libraries_below_their_floor_or_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    versions = {"torch": "2.9.1", "peft": None, "wandb": "0.1", "transformers": "5.3.0+local"}
    real = libraries._version
    monkeypatch.setattr(libraries, "_version", lambda n: versions.get(n, real(n)))
    found = {f.name: f for f in libraries.examine_versions()}
    assert (found["torch"].status, found["torch"].advice) == (FAIL, "pip install 'torch>=2.10'")
    assert found["torch"].text == "2.9.1, Inlay needs >=2.10"
    assert (found["peft"].status, found["peft"].text[:13]) == (FAIL, "not installed")
    assert found["wandb"].status == WARN
    assert "transformers 5.3.0+local" in found["needed"].text


def test_floors_come_from_the_checkout_or_from_what_is_installed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    needed, optional = libraries.requirements()
    assert {"torch", "transformers"} <= {r.name for r in needed}
    assert {"bitsandbytes", "gradio"} <= {r.name for r in optional}
    lines = ["torch>=2.10", 'gradio>=6.0; extra == "web"', 'pytest>=8; extra == "dev"']
    lines.append('inlay[web]; extra == "all"')
    monkeypatch.setattr(libraries.metadata, "requires", lambda _: lines)
    monkeypatch.setattr(libraries, "PROJECT", tmp_path / "none")
    needed, optional = libraries.requirements()
    assert [r.name for r in needed] == ["torch"] and [r.name for r in optional] == ["gradio"]


def test_a_library_that_ends_the_process_or_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    kill = libraries.Probe("x", "import os; os.abort()", WARN, "do without")
    found = libraries.try_out(kill)
    assert found == Finding(
        "libraries", "x", WARN, "is installed, but does not work: ended by signal 6", "do without"
    )
    monkeypatch.setattr(libraries, "PATIENCE", 0.2)
    hang = libraries.Probe("x", "import time; time.sleep(60)", WARN, "do without")
    assert "no answer in 0 s" in libraries.try_out(hang).text


# -- machine, folders, environment ---------------------------------------------------------------


def test_limits_of_the_control_group(tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.write_text("0::/job/task\n")
    task = tmp_path / "job" / "task"
    task.mkdir(parents=True)
    (task / "memory.max").write_text("max\n")
    (task.parent / "memory.max").write_text("4000000000\n")
    (task / "memory.current").write_text("1000\n")
    (task.parent / "memory.current").write_text("900\n")
    (task / "cpu.max").write_text("200000 100000\n")
    value = lambda name: machine.cgroup_value(name, tmp_path, own)  # noqa: E731
    assert value("memory.max") == ["4000000000"] and value("memory.current") == ["1000"]
    assert value("cpu.max") == ["200000", "100000"] and value("pids.max") == []
    assert machine.cgroup_value("cpu.max", tmp_path, tmp_path / "none") == []


def test_folders(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    look = lambda p: machine.folder("work dir", p, FAIL, 0, "choose another one")  # noqa: E731
    for path, reason in (
        (tmp_path / "file" / "w", "Not a directory"),
        (Path("/proc/inlay/w"), "No such file or directory"),
    ):
        found = look(path)
        assert (found.status, found.advice) == (FAIL, "choose another one")
        assert f"{path} cannot be written ({reason})" in found.text
    found = look(tmp_path / "new" / "ü")
    assert found.status == OK and re.search(r"ü, [\d,.]+ GB free$", found.text)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file"]
    few = machine.folder("work dir", tmp_path, FAIL, 1e9, "choose another one")
    assert (few.status, few.advice) == (WARN, "make room, or choose another one")


def test_variables_that_make_a_run_wait_or_slow(tmp_path: Path) -> None:
    (tmp_path / "op" / "build").mkdir(parents=True)
    lock = tmp_path / "op" / "build" / "lock"
    lock.touch()
    env = {
        "WORLD_SIZE": "2", "RANK": "0", "CUDA_LAUNCH_BLOCKING": "1", "NCCL_DEBUG": "WARN",
        "TORCH_EXTENSIONS_DIR": str(tmp_path), "WANDB_API_KEY": SECRET, "OMP_NUM_THREADS": "4",
    }  # fmt: skip
    found = {f.name: f for f in machine.examine_environment(env)}
    assert found["ranks"].status == WARN and "unset RANK WORLD_SIZE" in found["ranks"].advice
    assert found["CUDA_LAUNCH_BLOCKING"].status == WARN and "NCCL_DEBUG" not in found
    assert found["settings"].text == "OMP_NUM_THREADS=4"
    assert found["extension lock"].status == OK, "it may be in use"
    old = time.time() - 3600
    os.utime(lock, (old, old))
    found = {f.name: f for f in machine.examine_environment(env)}
    assert found["extension lock"].status == WARN
    assert found["extension lock"].advice.startswith(f"if nothing is being compiled: rm '{lock}'")
    assert not any(SECRET in f.text + f.advice for f in found.values())
    inside = env | {"TORCHELASTIC_RUN_ID": "1"}
    ranks = next(f for f in machine.examine_environment(inside) if f.name == "ranks")
    assert ranks.status == OK


def test_the_devices_are_told() -> None:
    found = {f.name: f for f in examine_devices()}
    assert found["torch"].text.startswith(torch.__version__)
    assert all(f.status != FAIL for f in found.values())


def test_the_summary_counts() -> None:
    findings = [Finding("a", "x", OK, "t"), Finding("a", "y", WARN, "t", "do it")]
    assert doctor.summary(findings) == "all is well: 1 ok, 1 warnings"
    assert not doctor.has_failed(findings)
    assert doctor.line(findings[1]) == f"warn  {'y':<16}  t\n{'':<24}-> do it"
    findings.append(Finding("a", "z", FAIL, "t"))
    assert doctor.summary(findings).startswith("1 FAIL, 1 warnings")
    assert doctor.line(findings[2]).startswith("FAIL  z") and doctor.has_failed(findings)
