"""Run ``inlay demo`` and draw what it prints as ``docs/demo.svg``, the picture in the README.

Usage: python tools/draw_demo.py
"""

from __future__ import annotations

import io
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.text import Text

OUT = Path(__file__).resolve().parents[1] / "docs" / "demo.svg"
WIDTH = 118
HEAD, TAIL = 6, 5
"""Lines of the training log that are shown at its start and at its end."""

NOISE = (
    "Warning",
    "warnings.warn",
    "Hook",
    "ample 0",
    "Saving",
    "Sample",
    "^<s>",
    "^Bot:",
    "Yes, I",
)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "inlay", "demo"]
        done = subprocess.run(
            command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
    done.check_returncode()
    lines = [line for line in done.stdout.splitlines() if keep(line)]
    log = [i for i, line in enumerate(lines) if "Iter(" in line]
    cut = [*lines[: log[HEAD]], "  ...", *lines[log[-TAIL] :]]
    console = Console(record=True, width=WIDTH, file=io.StringIO(), highlight=False)
    console.print("[bold]$ make demo[/]")
    for line in cut:
        console.print(Text(shorten(line)), soft_wrap=False, overflow="crop", no_wrap=True)
    OUT.write_text(console.export_svg(title="inlay demo"), encoding="utf-8")
    print(f"wrote {OUT.name}: {len(cut)} lines")


def keep(line: str) -> bool:
    """Leave out what is not about this run: warnings and the chat hook's own dumps."""
    return not re.search("|".join(NOISE), line)


def shorten(line: str) -> str:
    """Log lines without time stamps and statistics that matter to nobody here."""
    line = re.sub(r"^\d\d/\d\d \d\d:\d\d:\d\d - inlay - INFO - ", "", line)
    return re.sub(r"  (data_time|memory|tflops): \S+", "", line)


if __name__ == "__main__":
    main()
