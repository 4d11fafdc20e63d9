"""`inlay log-dataset`: show samples as the model reads them, and what became of the rows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from inlay.app import plan
from inlay.app.assemble import Parts
from inlay.app.pages.sample_view import boxes, runs
from inlay.app.train import checked_config
from inlay.core.errors import ConfigError
from inlay.core.types import IGNORE_INDEX, ImageProcessor, Sample


def log_dataset(
    config: str,
    count: int,
    show: str,
    cfg_options: Sequence[str],
    contact_sheet: str | None = None,
    html: str | None = None,
) -> None:
    """Show the first ``count`` samples of the training set, and its report.

    Args:
        show: ``text`` (trained spans coloured, in ``[[ ]]`` where there is no colour),
            ``masked_text`` (trained spans only), ``input_ids``, ``labels``, or ``all``. Samples are
            printed unless they go to a file. Of grounding data, words that have a mask take the
            place of trained ones.
        contact_sheet: a PNG file for their pictures.
        html: a file for a page with pictures and every token.
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
    processor = parts.image_processor()
    what = "grounded" if plan.counts_masks(dataset) else "trained"
    samples = [dataset.sample(i) for i in range(min(count, dataset.num_samples_total))]
    if contact_sheet is not None:
        from inlay.app.pages.contact_sheet import write_contact_sheet

        write_contact_sheet(Path(contact_sheet), samples, tokenizer, processor)
        print(f"pictures of {len(samples)} samples: {contact_sheet}")
    if html is not None:
        from inlay.app.pages.samples import write_sample_page

        title = f"{config}: samples as the model reads them"
        report = str(dataset.report)
        write_sample_page(Path(html), title, samples, tokenizer, processor, report, what)
        print(f"{len(samples)} samples: {html}")
    console = Console(soft_wrap=True, highlight=False)
    if contact_sheet is None and html is None:
        _print(console, samples, tokenizer, processor, show, what)
    console.rule("data set")
    console.print(str(dataset.report), markup=False)


def _print(
    console: Console,
    samples: Sequence[Sample],
    tokenizer: Any,
    processor: ImageProcessor | None,
    show: str,
    what: str,
) -> None:
    kinds = ("text", "masked_text", "input_ids", "labels") if show == "all" else (show,)
    for index, sample in enumerate(samples):
        share = sample.mask.mean()
        console.rule(f"sample {index}: {len(sample.ids)} tokens, {share:.0%} {what}")
        for kind in kinds:
            if len(kinds) > 1:
                console.print(f"{'#' * 20}   {kind}   {'#' * 20}")
            console.print(render(sample, tokenizer, kind, console.is_terminal, processor))


def render(
    sample: Sample,
    tokenizer: Any,
    kind: str,
    coloured: bool,
    processor: ImageProcessor | None = None,
) -> Text:
    """One sample as text; the tokens of a picture are one box in it.

    Args:
        kind: see :func:`log_dataset`.
        coloured: colour trained spans; otherwise they stand in ``[[ ]]``.
        processor: of a sample with pictures.
    """
    if kind == "input_ids":
        return Text(str(sample.ids.tolist()))
    if kind == "labels":
        pairs = zip(sample.ids.tolist(), sample.mask.tolist(), strict=True)
        return Text(str([i if trained else IGNORE_INDEX for i, trained in pairs]))
    text = Text()
    for trained, part in runs(sample, tokenizer, boxes(sample, processor)):
        if trained:
            text.append(str(part) if coloured else f"[[{part}]]", style="green")
        elif kind == "text":
            text.append(str(part), style=None if isinstance(part, str) else "cyan")
    return text
