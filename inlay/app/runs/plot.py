"""`inlay plot`: curves of runs in one picture."""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from inlay.app.runs.braille import STEEP
from inlay.app.runs.files import ELAPSED, RunFiles, Series
from inlay.app.runs.folders import check_work_dirs
from inlay.core.errors import InlayError, did_you_mean
from inlay.core.io import write_bytes

AXES = {
    "iter": "iteration",
    "update": "update",
    "tokens": "tokens",
    "samples": "samples",
    "time": "hours of training, without validation and checkpoints",
}
"""What the x axis may count: the option's word, and what stands below the axis."""
USUAL = ("loss", "lr")
EXACT = ("lr", "tokens", "samples", "update", "epoch")
"""Names, without what follows a slash, of what has no noise that could be smoothed away."""
NO_VALUES = ("iter", "step", "axis", "run_name", "eval_weights")
"""Of a record, what only says what it belongs to."""
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito's palette, told apart by colour-blind readers; without its yellow, which is too
light on white."""
STEEP_ONES = ("loss", "perplexity")
"""What may have a logarithmic axis."""
STYLES = ("-", "--", ":", "-.")
MARKERS = "osD^vPX"
PANEL = 5.6, 3.6  # inches
DPI = 150
LONGEST = 70  # characters of a run's name
ABREAST = 55  # of names that stand beside each other, a panel's width each
PANELS = 6  # that are drawn unasked


def plot(
    names: Sequence[str], out: str, keys: Sequence[str] = (), x: str = "iter", smooth: float = 0.0
) -> list[str]:
    """Draw what runs have logged, a panel for each of ``keys``, and write the picture.

    Args:
        names: work dirs. Each is a colour; its starts are one curve.
        out: file; its ending says the format (png, svg, pdf, ...).
        keys: names of what was logged; none: loss, learning rate and evaluations.
        x: a key of ``AXES``.
        smooth: weight of the past in an exponential mean, from 0 (none) to below 1.

    Returns:
        Lines about what is missing in some run.

    Raises:
        InlayError: a folder is no work dir, a key or the axis is in none of them, the picture
            cannot be written, or matplotlib is missing.
    """
    check_matplotlib(Path(out).suffix)
    axis_key = ELAPSED if x == "time" else x
    wanted = {*(keys or USUAL), axis_key}
    runs = {folder: RunFiles(folder, wanted) for folder in check_work_dirs(names)}
    for run in runs.values():
        run.read()
    shown = list(dict.fromkeys(keys)) or usual_keys(list(runs.values()))
    notes = _check(runs, shown, x, axis_key)
    buffer = io.BytesIO()
    with _settings() as said:
        figure = _draw(runs, shown, x, axis_key, smooth)
        figure.savefig(buffer, format=Path(out).suffix[1:].lower(), dpi=DPI)
    if any("missing from font" in str(warning.message) for warning in said):
        notes.append("no font on this machine has all the characters of the names")
    try:
        write_bytes(out, buffer.getvalue())
    except OSError as error:
        raise InlayError(f"{out} cannot be written ({error.strerror})") from error
    return notes


def usual_keys(runs: Sequence[RunFiles]) -> list[str]:
    """What is drawn unasked: loss, learning rate, evaluations as far as there is room."""
    points = sorted({name for run in runs for name in run.points if name.startswith("eval/")})
    keys = [key for key in USUAL if any(key in run.lines for run in runs)]
    return [*keys, *points][:PANELS] or list(USUAL[:1])


def find(run: RunFiles, key: str) -> Series | None:
    """The series of a run that is called ``key``, in training or in evaluations."""
    series = run.lines.get(key) or run.points.get(key)
    return series if series and series.iters else None


def smoothed(values: Sequence[float], weight: float) -> list[float]:
    """Exponential mean of what came before, unbiased at the beginning (Adam's correction).

    Values that are not finite stay as they are and count for nothing.
    """
    mean, share, found = 0.0, 1.0, []
    for value in values:
        if math.isfinite(value):
            mean = weight * mean + (1 - weight) * value
            share *= weight
            value = mean / (1 - share)
        found.append(value)
    return found


def _check(runs: dict[Path, RunFiles], keys: Sequence[str], x: str, axis_key: str) -> list[str]:
    """Return notes about what some runs lack; raise for what all of them lack."""
    problems, notes = [], []
    known = sorted({name for run in runs.values() for name in (*run.known, *run.points)})
    for key in keys:
        without = [folder for folder, run in runs.items() if find(run, key) is None]
        if len(without) == len(runs):
            problems.append(f"no run has logged numbers called '{key}'.{did_you_mean(key, known)}")
        elif without:
            notes.append(f"'{key}' is missing in {', '.join(map(str, without))}")
    if x != "iter":
        without = [folder for folder, run in runs.items() if find(run, axis_key) is None]
        if without:
            problems.append(
                f"--x {x}: {', '.join(map(str, without))} did not log it. Take --x iter"
            )
    if problems:
        words = [name for name in known if name not in NO_VALUES]
        raise InlayError("\n".join([*problems, f"Known: {', '.join(words) or 'nothing yet'}"]))
    return notes


@contextmanager
def _settings() -> Iterator[list[warnings.WarningMessage]]:
    """matplotlib's settings while a picture is made; collects its warnings."""
    from matplotlib import rc_context

    settings = {"agg.path.chunksize": 10_000, "font.family": _fonts(), "font.size": 10}
    with warnings.catch_warnings(record=True) as said, rc_context(settings):
        warnings.simplefilter("always")
        yield said


def _draw(
    runs: dict[Path, RunFiles], keys: Sequence[str], x: str, axis_key: str, smooth: float
) -> Any:
    from matplotlib.figure import Figure  # not pyplot's: it draws without a display

    columns = min(len(keys), 2 if len(keys) <= 4 else 3)
    rows = -(-len(keys) // columns)
    names = [_short(str(folder)) for folder in runs]
    abreast = columns if max(map(len, names)) <= ABREAST else 1
    room = 0.3 + 0.22 * -(-len(runs) // abreast)  # inches for the names of the runs
    size = PANEL[0] * columns, PANEL[1] * rows + room
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).flatten()
    for panel, key in zip(panels, keys, strict=False):
        for number, run in enumerate(runs.values()):
            _draw_run(panel, run, key, number, axis_key, smooth)
        _finish(panel, key, list(runs.values()), AXES[x])
    for panel in panels[len(keys) :]:
        panel.remove()
    _legend(figure, names, abreast)
    return figure


def _draw_run(
    panel: Any, run: RunFiles, key: str, number: int, axis_key: str, smooth: float
) -> None:
    """A run's curve, and the validations of the same name as points."""
    colour, style = COLOURS[number % len(COLOURS)], STYLES[number // len(COLOURS) % len(STYLES)]
    marker = MARKERS[number % len(MARKERS)]
    if series := run.lines.get(key):
        places = _places(run, series, axis_key)
        raw = list(series.values)
        is_noisy = smooth > 0 and key.partition("/")[0] not in EXACT
        if is_noisy:
            panel.plot(places, raw, color=colour, alpha=0.25, linewidth=0.8)
        line = smoothed(raw, smooth) if is_noisy else raw
        alone = marker if len(line) == 1 else None
        panel.plot(places, line, style, color=colour, linewidth=1.4, marker=alone)
        lost = [p for p, value in zip(places, raw, strict=True) if not math.isfinite(value)]
        if lost:  # a cross at the bottom for each loss that was not finite
            low = panel.get_xaxis_transform()
            panel.plot(lost, [0.03] * len(lost), "x", color=colour, transform=low)
    for name in (key, f"val/{key}"):
        if points := run.points.get(name):
            link = "" if series else style  # between points there may be a curve already
            panel.plot(
                _places(run, points, axis_key), points.values, linestyle=link, marker=marker,
                color=colour, linewidth=0.8, markersize=6, markeredgecolor="white",
            )  # fmt: skip


def _places(run: RunFiles, series: Series, axis_key: str) -> Any:
    """Where the values of a series stand on the x axis."""
    if axis_key == "iter":
        return series.iters
    import numpy

    axis = run.lines[axis_key]
    at = numpy.interp(series.iters, [0, *axis.iters], [0.0, *axis.values])
    return at / 3600 if axis_key == ELAPSED else at


def _finish(panel: Any, key: str, runs: Sequence[RunFiles], below: str) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.ticker import EngFormatter

    panel.set_title(key, loc="left", pad=14, fontweight="bold", parse_math=False)
    panel.set_xlabel(below)
    if below != AXES["time"]:
        panel.xaxis.set_major_formatter(EngFormatter(sep=""))  # 20k, 3M
    panel.grid(alpha=0.3, linewidth=0.6)
    panel.spines[["top", "right"]].set_visible(False)
    if any(word in key for word in STEEP_ONES) and _is_steep([find(run, key) for run in runs]):
        panel.set_yscale("log")
    else:
        panel.ticklabel_format(axis="y", scilimits=(-3, 5))
    if any(key in run.lines and f"val/{key}" in run.points for run in runs):
        proxies = [
            Line2D([], [], color="grey", label=key),
            Line2D([], [], color="grey", marker="o", linestyle="", label=f"val/{key}"),
        ]
        panel.legend(handles=proxies, frameon=False)


def _is_steep(found: Sequence[Series | None]) -> bool:
    """Whether values fall so far that an even axis would hide the end of their curves."""
    values = [v for series in found if series for v in series.values if math.isfinite(v)]
    return bool(values) and min(values) > 0 and max(values) / min(values) > STEEP


def _legend(figure: Any, names: Sequence[str], columns: int) -> None:
    """The names of the runs above the panels, with their colours and markers."""
    from matplotlib.lines import Line2D

    lines = [
        Line2D(
            [], [], color=COLOURS[number % len(COLOURS)], marker=MARKERS[number % len(MARKERS)],
            linestyle=STYLES[number // len(COLOURS) % len(STYLES)],
        )
        for number in range(len(names))
    ]  # fmt: skip
    legend = figure.legend(lines, names, loc="outside upper left", frameon=False, ncols=columns)
    for text in legend.get_texts():
        text.set_parse_math(False)


def _short(name: str) -> str:
    """The name, or its end where it is long: paths differ there. A first ``_`` would hide it."""
    printable = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in name)
    if len(printable) > LONGEST:
        printable = "…" + printable[1 - LONGEST :]
    return f"./{printable}" if printable.startswith("_") else printable


def _fonts() -> list[str]:
    """matplotlib's own font, then those of this machine that know Chinese, Japanese and Korean."""
    from matplotlib.font_manager import get_font_names

    asian = ("CJK", "Hei", "Ming", "Song", "Gothic", "Nanum")
    others = sorted(n for n in get_font_names() if any(part in n for part in asian))
    return ["DejaVu Sans", *others]


def check_matplotlib(suffix: str) -> None:
    """Raise InlayError where matplotlib is missing, or does not write files of this ending."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise InlayError("inlay plot needs matplotlib: pip install 'inlay[plot]'") from error
    formats = Figure().canvas.get_supported_filetypes()
    if suffix[1:].lower() not in formats:
        raise InlayError(
            f"-o: '{suffix or 'no ending'}' is no format of pictures. Take .png, .svg or .pdf "
            f"(known: {', '.join(sorted(formats))})"
        )
