"""`inlay check-custom-dataset`: a few rows of a user's own data through every stage of training."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from inlay.app.assemble import Parts
from inlay.app.log_dataset import render
from inlay.app.train import checked_config
from inlay.config.build import resolve
from inlay.core.errors import ConfigError, DataError, InlayError
from inlay.core.types import IGNORE_INDEX, Conversation, Sample
from inlay.data.cache import row_encoder
from inlay.data.chat import ChatEncoder
from inlay.data.encode_rows import Policy, RowEncoder
from inlay.data.formats import FORMATS, detect_format, format_identity, resolve_format
from inlay.data.json_rows import Row
from inlay.data.map_fns import MAP_FNS
from inlay.data.pack import best_fit
from inlay.data.sft import ChatDataset
from inlay.data.sources import Source, open_source, parse_sources

NUM_ROWS = 10
LOOKED_AT = 100_000
"""Rows of a source from which the few are drawn."""


def check_custom_dataset(
    config: str, cfg_options: Sequence[str] = (), say: Callable[[str], None] = print
) -> None:
    """Take up to ten random rows of each source of the training set through every stage, then index
    the whole data sets.

    Printed are the formats that fit, the first good row after each stage, every bad row of the
    ten, and what became of all rows.

    Raises:
        ConfigError: the training set is no ``ChatDataset``.
        DataError: none of a source's rows can be used; all that is wrong with them is named.
    """
    cfg = checked_config(config, cfg_options)
    node = cfg["train_dataloader"]["dataset"]
    if not isinstance(node, dict) or resolve(node["type"]) is not ChatDataset:
        raise ConfigError(
            f"{config}: check-custom-dataset looks at rows of a ChatDataset; for other data sets "
            "there is `inlay log-dataset`"
        )
    parts = Parts(cfg, seed=0)
    for source in parse_sources(node["sources"]):
        _SourceCheck(source, node, parts, say).run()
    for mode in ("train", "val", "test"):
        loader = parts.loader(mode)
        if loader is not None:
            say(f"{mode}: {len(loader.dataset):,} items\n{loader.dataset.report}")


@dataclass
class _SourceCheck:
    """A few rows of one source.

    Attributes:
        node: of the data set.
    """

    source: Source
    node: dict[str, Any]
    parts: Parts
    say: Callable[[str], None]

    def run(self) -> None:
        reader = open_source(self.source)
        rows = draw(reader.rows(), NUM_ROWS)
        self.say(f"{self.source.path}: {len(rows)} rows drawn")
        self._say_formats(rows)
        processor = self.parts.image_processor()
        template = self.node.get("template")
        encoder = ChatEncoder(self.parts.tokenizer(), template, processor)
        policy = Policy(
            self.node.get("max_sample_length") or self.node.get("max_length", 2048),
            self.node.get("overlong", "truncate"),
            verify_images=True,
        )
        folder = self.node.get("image_folder")
        encode, name = row_encoder(self.source, reader, encoder, policy, folder)
        samples, problems = self._encode(rows, encode)
        if not samples:
            places = "".join(f"\n  {problem}" for problem in problems)
            raise DataError(
                f"{self.source.path}: none of {len(rows)} rows can be used as '{name}':{places}"
            )
        for problem in problems:
            self.say(f"bad row: {problem}")
        row, first = samples[0]
        self._say_stages(row, first, encode)
        if self.node.get("pack_to_max_length", True):
            self._say_pack([sample for _, sample in samples])

    def _say_formats(self, rows: list[Row]) -> None:
        values = [row.value for row in rows if row.problem is None]
        wanted, likely = self.source.format, _detected(values)
        if wanted is not None:
            self.say(f"format: {format_identity(wanted)}, as the config has it")
        elif likely is not None:
            self.say(f"format: {likely}, found from the rows")
        fitting = [name for name in FORMATS if _fits(name, values)]
        fitting.sort(key=lambda name: name != likely)
        named = ", ".join(map(_with_map_fn, fitting))
        self.say(f"formats that fit all of these rows, the likeliest first: {named or 'none'}")

    def _encode(
        self, rows: list[Row], encode: RowEncoder
    ) -> tuple[list[tuple[Row, Sample]], list[str]]:
        """Samples with their rows, and what is wrong with the others, by file and line."""
        samples, problems = [], []
        for row in rows:
            found = encode([row])
            samples += [(row, sample) for sample in found.samples]
            problems += [
                f"{bad['file']}, line {bad['line']}: {bad['reason']}"
                for bad in found.report.bad_rows
            ]
            problems += [
                f"{row.file}, line {row.line}: dropped {reason}" for reason in found.report.dropped
            ]
        return samples, problems

    def _say_stages(self, row: Row, sample: Sample, encode: RowEncoder) -> None:
        conversation = encode.convert(row.value)
        assert conversation is not None  # it became a sample
        self.say(f"first good row: {row.file}, line {row.line}")
        self._headed("dataset after `dataset_map_fn`", str(_plain(conversation)))
        processor = self.parts.image_processor()
        text = render(sample, self.parts.tokenizer(), "text", False, processor)
        self._headed("dataset after adding templates; [[trained]]", str(text))
        self._headed("encoded input_ids", str(sample.ids.tolist()))
        self._headed("encoded labels", str(_labels([sample])))

    def _say_pack(self, samples: list[Sample]) -> None:
        import numpy as np

        lengths = np.array([len(sample.ids) for sample in samples], np.int32)
        packs = best_fit(lengths, self.node.get("max_length", 2048), len(samples), 0)
        chosen = [samples[i] for i in packs[0].tolist()]
        ids = [token for sample in chosen for token in sample.ids.tolist()]
        self._headed("input_ids after packed to max_length", str(ids))
        self._headed("labels after packed to max_length", str(_labels(chosen)))
        self.say(
            f"{len(samples)} rows are {len(packs)} packs; the first holds {len(chosen)} of them, "
            "which do not see each other"
        )

    def _headed(self, title: str, text: str) -> None:
        self.say(f"{'#' * 20}   {title}   {'#' * 20}\n{text}")


def draw(rows: Iterator[Row], count: int) -> list[Row]:
    """Return ``count`` rows of the first ``LOOKED_AT``, drawn alike each time, in their order."""
    chance = random.Random(0)
    kept: list[tuple[int, Row]] = []
    for number, row in enumerate(itertools.islice(rows, LOOKED_AT)):
        if number < count:
            kept.append((number, row))
        elif (place := chance.randint(0, number)) < count:
            kept[place] = (number, row)
    return [row for _, row in sorted(kept, key=lambda one: one[0])]


def _detected(values: list[Any]) -> str | None:
    try:
        return detect_format(values[0]) if values else None
    except DataError:
        return None


def _fits(name: str, values: list[Any]) -> bool:
    """Whether a format makes conversations of all rows."""
    convert = resolve_format(name)
    try:
        made = [convert(value) for value in values]
    except InlayError:
        return False
    return any(made) and all(one is None or _is_said(one) for one in made)


def _is_said(conversation: Conversation) -> bool:
    return conversation.text is not None or any(
        message.role == "assistant" for message in conversation.messages
    )


def _with_map_fn(name: str) -> str:
    function = f"{name}_map_fn"
    return f"{name} ({function})" if function in MAP_FNS else name


def _plain(conversation: Conversation) -> Any:
    """A conversation as people read it: messages, or the text of a document."""
    if conversation.text is not None:
        return conversation.text
    return [{"role": m.role, "content": m.content} for m in conversation.messages]


def _labels(samples: list[Sample]) -> list[int]:
    return [
        token if trained else IGNORE_INDEX
        for sample in samples
        for token, trained in zip(sample.ids.tolist(), sample.mask.tolist(), strict=True)
    ]
