"""``python -m inlay.cli`` is ``inlay``."""

from __future__ import annotations

from inlay.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
