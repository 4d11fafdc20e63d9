"""Import DeepSpeed quietly, for the device at hand, with nothing to be compiled."""

from __future__ import annotations

import logging
import os
import warnings

import torch

from inlay.core.errors import InlayError


def set_up(device: torch.device) -> None:
    """Make DeepSpeed ready to be imported and used.

    Raises:
        InlayError: it is not installed, or does not fit this machine.
    """
    os.environ.setdefault("DS_ACCELERATOR", device.type)
    os.environ.setdefault("LOCAL_RANK", "0")  # it insists on it, also where a process is alone
    # It calls collectives by names that torch is about to drop.
    warnings.filterwarnings("ignore", r"`torch\.distributed\.\w+` is deprecated", FutureWarning)
    try:
        import deepspeed
    except ImportError as error:
        raise InlayError(
            f"--deepspeed: DeepSpeed cannot be imported ({error}). Install it: "
            "DS_BUILD_OPS=0 pip install 'inlay[deepspeed]'"
        ) from None
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    # A collective for inference on a CPU, which it would compile at start: minutes, and after a
    # kill in the midst of it the next start waits for ever on the lock file that was left behind.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
