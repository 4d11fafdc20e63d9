"""`inlay log-dataset`: show samples as the model reads them, and what became of the rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

from rich.console import Console
from rich.text import Text

from inlay.app.assemble import Parts
from inlay.app.train import checked_config
from inlay.core.errors import ConfigError
from inlay.core.types import IGNORE_INDEX, Sample


def report_data(cfg: Any) -> None:
    """Build the data sets of a checked config and print what became of their rows."""
    parts = Parts(cfg, seed=0)
    for mode in ("train", "val", "test"):
        loader = parts.loader(mode)
        if loader is not None:
            print(f"{mode}: {len(loader.dataset):,} items\n{loader.dataset.report}")


def log_dataset(config: str, count: int, show: str, cfg_options: Sequence[str]) -> None:
    """Print the first ``count`` samples of the training set and its report.

    Args:
        show: ``text`` (trained spans coloured, in ``[[ ]]`` where there is no colour),
            ``masked_text`` (trained spans only), ``input_ids``, ``labels``, or ``all``.
    """
    cfg = checked_config(config, cfg_options)
    parts = Parts(cfg, seed=0)
    dataset = parts.loader("train").dataset
    if not hasattr(dataset, "sample"):
        raise ConfigError(
            f"{config}: a streamed data set cannot be looked at by number. Name a few of its rows "
            "as a ChatDataset source instead"
        )
    tokenizer = parts.tokenizer()
    console = Console(soft_wrap=True, highlight=False)
    for index in range(min(count, dataset.num_samples_total)):
        sample = dataset.sample(index)
        share = sample.mask.mean()
        console.rule(f"sample {index}: {len(sample.ids)} tokens, {share:.0%} trained")
        for kind in ("text", "masked_text", "input_ids", "labels") if show == "all" else (show,):
            console.print(render(sample, tokenizer, kind, coloured=console.is_terminal))
    console.rule("data set")
    console.print(str(dataset.report))


def render(sample: Sample, tokenizer: Any, kind: str, coloured: bool) -> Text:
    """One sample as text.

    Args:
        kind: see :func:`log_dataset`.
        coloured: colour trained spans; otherwise they stand in ``[[ ]]``.
    """
    if kind == "input_ids":
        return Text(str(sample.ids.tolist()))
    if kind == "labels":
        pairs = zip(sample.ids.tolist(), sample.mask.tolist(), strict=True)
        return Text(str([i if trained else IGNORE_INDEX for i, trained in pairs]))
    text = Text()
    for trained, piece in spans(sample, tokenizer):
        if trained:
            text.append(piece if coloured else f"[[{piece}]]", style="green")
        elif kind == "text":
            text.append(piece)
    return text


def spans(sample: Sample, tokenizer: Any) -> Iterator[tuple[bool, str]]:
    """Yield runs of trained and untrained tokens, decoded with their special tokens."""
    tokens = zip(sample.mask.tolist(), sample.ids.tolist(), strict=True)
    for trained, run in groupby(tokens, key=lambda pair: pair[0]):
        yield trained, tokenizer.decode([i for _, i in run])
