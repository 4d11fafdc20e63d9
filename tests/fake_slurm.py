"""sbatch, squeue and sacct that run scripts right here, as one machine's slurm would."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

SBATCH = """#!/bin/sh
echo "sbatch $*" >> "$FAKE/calls"
case "$1" in
  --test-only) grep -q "gres=gpu" "$2" || { echo "sbatch: error: no GPU asked for" >&2; exit 1; };;
  --parsable)
    number=$(($(cat "$FAKE/number") + 1)); echo $number > "$FAKE/number"
    output=$(sed -n 's/^#SBATCH --output="\\(.*\\)"$/\\1/p' "$2")
    { bash "$2"; echo $? > "$FAKE/code_$number"; } > "$output" 2>&1 &
    echo "$number;cluster";;
esac
"""
SQUEUE = """#!/bin/sh
echo "squeue $*" >> "$FAKE/calls"
for name in "$@"; do case "$name" in --jobs=*) jobs=${name#--jobs=};; esac; done
some=no
for job in $(echo $jobs | tr , ' '); do [ -e "$FAKE/code_$job" ] || { echo $job; some=yes; }; done
[ $some = yes ] || { echo "slurm_load_jobs error: Invalid job id specified" >&2; exit 1; }
"""
SACCT = """#!/bin/sh
for name in "$@"; do case "$name" in --jobs=*) jobs=${name#--jobs=};; esac; done
for job in $(echo $jobs | tr , ' '); do
  [ "$(cat $FAKE/code_$job)" = 0 ] && echo "$job|COMPLETED|0:0" || echo "$job|FAILED|3:0"
done
"""


def install(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put them on PATH. Returns their folder: ``calls`` there says how they were called.

    The first job has the number 101; a script that asks for no GPU is refused.
    """
    slurm = folder / "slurm"
    slurm.mkdir()
    for name, text in (("sbatch", SBATCH), ("squeue", SQUEUE), ("sacct", SACCT)):
        (slurm / name).write_text(text)
        (slurm / name).chmod(0o755)
    (slurm / "number").write_text("100")
    monkeypatch.setenv("FAKE", str(slurm))
    monkeypatch.setenv("PATH", f"{slurm}:{os.environ['PATH']}")
    return slurm
