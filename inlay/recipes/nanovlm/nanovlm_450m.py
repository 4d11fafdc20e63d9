"""nanoVLM-450M: SigLIP2-B/512 and SmolLM2-360M, tiles with a global view, FineVision streamed."""

_base_ = ["../_base/settings_nanovlm.py", "../_base/nanovlm.py"]
