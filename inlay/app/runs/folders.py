"""Where things lie in the work dir of a run. Needs no torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from inlay.core.errors import InlayError

LOCK = ".lock"
POINTER = "last_checkpoint"
RESULTS = "eval_results"
SCALARS = Path("vis_data", "scalars.json")


def start_folders(work_dir: Path) -> list[Path]:
    """The folders of a run's starts, oldest first."""
    return sorted(
        folder
        for folder in work_dir.iterdir()
        if (folder / "vis_data").is_dir() or (folder / f"{folder.name}.log").is_file()
    )


def check_work_dirs(names: Sequence[str]) -> list[Path]:
    """Return ``names`` as paths of work dirs.

    Raises:
        InlayError: some are none; says for all of them what was looked for.
    """
    wrong = [why for name in names if (why := _what_is_wrong(Path(name).expanduser()))]
    if wrong:
        raise InlayError("\n".join(wrong))
    return [Path(name).expanduser() for name in dict.fromkeys(names)]


def _what_is_wrong(folder: Path) -> str | None:
    if not folder.is_dir():
        return f"{folder}: there is no such folder"
    try:
        if (folder / LOCK).is_file() or start_folders(folder):
            return None
        inside = sorted(f for f in folder.iterdir() if f.is_dir() and start_folders(f))
    except OSError as error:
        return f"{folder} cannot be read ({error.strerror})"
    hint = f" Did you mean {', '.join(map(str, inside[:5]))}?" if inside else ""
    if (folder / "vis_data").is_dir() or folder.name == "vis_data":
        up = folder.parent if folder.name != "vis_data" else folder.parent.parent
        hint = f" Did you mean {up}?"
    return (
        f"{folder} is not the work dir of a run: expected a folder <timestamp>/{SCALARS} "
        f"or a {LOCK} in it, found neither.{hint}"
    )
