"""Lets the tests of this folder import the helpers of ``tests/models`` and ``tests/app``."""

from __future__ import annotations

import sys
from pathlib import Path

for floor in ("models", "app"):
    sys.path.insert(0, str(Path(__file__).parents[1] / floor))
