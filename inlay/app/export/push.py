"""`inlay push`: an export goes to the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path

from inlay.convert.folder import RECORD
from inlay.core.errors import InlayError
from inlay.core.hub import upload
from inlay.core.secrets import redact


def push(folder: str, repo_id: str, public: bool = False) -> str:
    """Upload an export; return its address.

    Raises:
        InlayError: ``folder`` is no export, a text in it holds a secret, nobody is logged in, or
            the hub cannot be reached or refuses.
    """
    from huggingface_hub import get_token
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    path = Path(folder).expanduser()
    if not (path / RECORD).is_file():
        raise InlayError(
            f"'{path}' holds no {RECORD}: expected an export. A checkpoint is exported first: "
            "inlay convert pth_to_hf CONFIG CHECKPOINT DIR"
        )
    _refuse_secrets(path)
    if get_token() is None:
        raise InlayError("not logged in to the Hugging Face hub: run `hf auth login`")
    try:
        return upload(path, repo_id, not public)
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        reason = redact(str(error).splitlines()[0] if str(error) else type(error).__name__)
        raise InlayError(f"{path} is not uploaded to {repo_id}: {reason}") from error


def _refuse_secrets(folder: Path) -> None:
    """Cards and configs are edited by hand: look again before others read them."""
    for file in sorted([*folder.rglob("*.py"), *folder.rglob("*.md")]):
        text = file.read_text(encoding="utf-8", errors="replace")
        clean = redact(text, is_code=file.suffix == ".py")
        if clean != text:
            pairs = zip(text.splitlines(), clean.splitlines(), strict=False)
            line = next((n for n, (a, b) in enumerate(pairs, 1) if a != b), 1)
            raise InlayError(f"{file}, line {line} holds a secret: remove it before others read it")
