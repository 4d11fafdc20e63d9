"""The one table of foreign names: XTuner 0.1.x, MMEngine and F-LMM in the terms of Inlay.

A name is looked up by its package and itself, ``xtuner.LLaVADataset``, from whatever module of the
package a config imports it. The rows stand in ``compat_mmengine``, ``compat_xtuner`` and
``compat_flmm``; what they name is imported when it is asked for.
"""

from __future__ import annotations

from inlay.config import compat_flmm, compat_mmengine, compat_xtuner
from inlay.config.compat_names import Name

PACKAGES = (
    "mmengine",
    "mmcv",
    "mmdet",
    "mmseg",
    "xtuner",
    "flmm",
    "deepseek_vl",
    "segment_anything",
)
NAMES: dict[str, Name] = {**compat_mmengine.NAMES, **compat_xtuner.NAMES, **compat_flmm.NAMES}
_REASONS = {**compat_xtuner.REASONS, **compat_flmm.REASONS}
_MODULES = {**compat_mmengine.MODULES, **compat_xtuner.MODULES, **compat_flmm.MODULES}
_ALIASES = {"mmcv": "mmengine"}
"""Packages whose names once stood in another one."""


def find(module: str, name: str) -> tuple[str, Name] | None:
    """Return the table's key and row of a name that is imported from ``module``, or None."""
    package = module.partition(".")[0]
    for owner in (package, _ALIASES.get(package, package)):
        key = f"{owner}.{name}"
        if key in NAMES:
            return key, NAMES[key]
    return None


def find_text(path: str) -> tuple[str, Name] | None:
    """Return the row of a ``type`` that is written as text: a dotted path, or a name alone."""
    module, _, name = path.rpartition(".")
    if not module:
        for package in ("mmengine", "xtuner", "mmdet", "flmm"):
            if found := find(package, name):
                return found
        return None
    if name == "from_pretrained":
        module, _, owner = module.rpartition(".")
        name = f"{owner}.{name}"
    known = module.partition(".")[0] in {key.partition(".")[0] for key in NAMES}
    return find(module, name) if known else None


def is_module(path: str) -> bool:
    """Whether a package of the originals has such a module, as far as configs import it."""
    package, _, rest = path.partition(".")
    return package in _MODULES and all(
        part in _MODULES[package] for part in rest.split(".") if part
    )


def reason(module: str, name: str) -> str:
    """Return why a name has no counterpart, or an empty string."""
    return _REASONS.get(f"{module.partition('.')[0]}.{name}", "")
