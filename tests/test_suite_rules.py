"""The suite's own rule, proven on small suites that are run for real."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

HEAD = "import pytest\n\ndef test_runs(): pass\n\n"
ALLOWED = HEAD + "@pytest.mark.{marker}\ndef test_skips(): pytest.skip('no device')\n"
SILENT = {
    "in the test": "def test_skips(): pytest.skip('not today')\n",
    "by a marker": "@pytest.mark.skip\ndef test_skips(): pass\n",
    "in a fixture": "@pytest.fixture\ndef none(): pytest.skip('none')\n\ndef test_skips(none): 0\n",
    "expected to fail": "@pytest.mark.xfail\ndef test_skips(): assert False\n",
    "a whole module": "pytest.skip('module', allow_module_level=True)\n",
    "a missing package": "pytest.importorskip('no_such_package')\n",
}


def run_suite(folder: Path, source: str, *words: str) -> subprocess.CompletedProcess[str]:
    (folder / "conftest.py").write_text('pytest_plugins = ["suite_rules"]\n')
    (folder / "pytest.ini").write_text("[pytest]\nmarkers =\n    gpu\n    shared\n    long\n")
    (folder / "test_it.py").write_text(source)
    env = os.environ | {"PYTHONPATH": str(Path(__file__).parent)}
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *words]
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)


@pytest.mark.parametrize("how", SILENT)
def test_a_silent_skip_fails_the_suite(how: str, tmp_path: Path) -> None:
    done = run_suite(tmp_path, HEAD + SILENT[how])
    assert done.returncode == 1, done.stdout
    assert "skipped without leave" in done.stdout
    assert "  test_it.py" in done.stdout


@pytest.mark.parametrize("marker", ["gpu", "shared", "long"])
def test_marked_tests_may_skip(marker: str, tmp_path: Path) -> None:
    done = run_suite(tmp_path, ALLOWED.format(marker=marker))
    assert done.returncode == 0, done.stdout
    assert "1 passed, 1 skipped" in done.stdout


def test_workers_are_watched_too(tmp_path: Path) -> None:
    done = run_suite(tmp_path, HEAD + SILENT["by a marker"], "-n", "1")
    assert done.returncode == 1, done.stdout
    assert "test_it.py::test_skips" in done.stdout.partition("skipped without leave")[2]


def test_files_with_long_tests_start_first(tmp_path: Path) -> None:
    (tmp_path / "test_z.py").write_text(
        "import pytest\n\ndef test_z(): pass\n\n@pytest.mark.long\ndef test_y(): pass\n"
    )
    done = run_suite(tmp_path, HEAD, "--collect-only", "-q")
    assert done.stdout.split()[:3] == [
        "test_z.py::test_z",
        "test_z.py::test_y",
        "test_it.py::test_runs",
    ]
