"""Upload to the Hugging Face hub, which happens on request only."""

from __future__ import annotations

from pathlib import Path

from inlay.core.errors import InlayError


def upload(folder: Path, repo_id: str, private: bool = True) -> str:
    """Upload a folder as a model; return the address of its repository.

    Args:
        repo_id: ``name`` or ``owner/name``; created where it is missing.
        private: whether the repository must be private.

    Raises:
        InlayError: it must be private, and one of this name is public.
        Exception: whatever the network or the hub refuses.
    """
    from huggingface_hub import HfApi

    api = HfApi()
    repo = api.create_repo(repo_id, private=private, exist_ok=True)
    if private and not api.repo_info(repo.repo_id).private:
        raise InlayError(
            f"{repo.repo_id} is there already and is public: everybody would see what is uploaded. "
            "Name another repository, or say that it may be public"
        )
    api.upload_folder(repo_id=repo.repo_id, folder_path=str(folder), commit_message="Upload model")
    return str(repo)
