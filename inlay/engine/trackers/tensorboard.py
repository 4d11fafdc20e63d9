"""TensorBoard's event files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from inlay.engine.trackers.base import Pictures, Row, RunInfo, curves


class TensorboardVisBackend:
    """TensorBoard event files beside ``scalars.json``, opened at the first record."""

    writes_files = True

    def open(self, folder: Path, info: RunInfo) -> None:
        self._folder, self._info = folder, info
        self._opened: Any = None

    @property
    def _writer(self) -> Any:
        if self._opened is None:
            from torch.utils.tensorboard import SummaryWriter

            self._opened = SummaryWriter(str(self._folder))
            for name, values in self._info.values.items():
                self._opened.add_text(name, f"```json\n{json.dumps(values, indent=1)}\n```")
        return self._opened

    def write(self, record: dict[str, Any]) -> None:
        for name, value in curves(record, self._info.names).items():
            self._writer.add_scalar(name, value, record["step"])

    def write_table(self, name: str, rows: Sequence[Row], step: int) -> None:
        columns = list(dict.fromkeys(key for row in rows for key in row))
        lines = [columns, ["---"] * len(columns)]
        lines += [[str(row.get(key, "")) for key in columns] for row in rows]
        text = "\n".join("| " + " | ".join(map(_cell, line)) + " |" for line in lines)
        self._writer.add_text(name, text, step)

    def write_images(self, name: str, images: Pictures, step: int) -> None:
        import numpy as np
        from PIL import Image

        for number, (_, file) in enumerate(images):
            with Image.open(file) as image:
                pixels = np.asarray(image.convert("RGB"))
            self._writer.add_image(f"{name}/{number}", pixels, step, dataformats="HWC")

    def close(self) -> None:
        if self._opened is not None:
            self._opened.close()


def _cell(text: str) -> str:
    """A cell of a Markdown table is one line."""
    return text.replace("|", "\\|").replace("\n", "<br>")
