"""`inlay watch`: a live view of runs in the terminal, from their files alone."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console, ConsoleOptions, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from inlay.app.runs.braille import draw, spark
from inlay.app.runs.files import number
from inlay.app.runs.folders import check_work_dirs
from inlay.app.runs.state import Status, Watched, duration

COLOURS = {
    "running": "green",
    "finished": "cyan",
    "stopped": "yellow",
    "stalled": "bold yellow",
    "died": "bold red",
}
READING = 1.0
"""Seconds that all runs together may be read for between two views."""
FRAME = 4
"""Lines of a panel that are always there: its frame, progress, numbers."""
CURVE = (4, 14)
"""Least and greatest height of a curve."""
SPARK = 16  # characters
NOT_SHOWN = ("iter", "units", "time")
FEW = 6  # results in a line


class View:
    """What the terminal shows: a panel for each run, or a line where there is no room for panels.

    Args:
        rows: lines that there are; None: as many as it takes.
    """

    def __init__(self, runs: Sequence[tuple[Watched, Status]], rows: int | None = None) -> None:
        self.runs, self.rows = runs, rows

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Any:
        height = CURVE[1]
        if self.rows is not None:
            texts = sum(
                FRAME + len(status.results) + len(_events(status)) for _, status in self.runs
            )
            height = min((self.rows - texts) // max(len(self.runs), 1), CURVE[1])
        if height < 0 and len(self.runs) > 1:
            yield table(self.runs, options)
            return
        for watched, status in self.runs:
            yield panel(watched, status, height, options)


def watch(names: Sequence[str], interval: float) -> None:
    """Show runs until Ctrl-C, anew every ``interval`` seconds; the last view stays."""
    runs = [Watched(folder) for folder in check_work_dirs(names)]
    console = Console()
    view = View([])
    # A killed viewer must give the terminal back as it was.
    previous = signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        with Live(view, console=console, screen=True, auto_refresh=False) as live:
            while True:
                view = View(look(runs, READING), console.size.height)
                live.update(view, refresh=True)
                is_behind = any(status.unread for _, status in view.runs)
                time.sleep(0 if is_behind else interval)
    except KeyboardInterrupt:
        console.print(View(view.runs))
    finally:
        signal.signal(signal.SIGTERM, previous)


def once(names: Sequence[str]) -> None:
    """Print the view of runs once."""
    runs = [Watched(folder) for folder in check_work_dirs(names)]
    Console().print(View(look(runs)))


def as_json(names: Sequence[str]) -> dict[str, Any]:
    """Return what is known of runs, for scripts: ``{"time": ..., "runs": [...]}``."""
    runs = [Watched(folder) for folder in check_work_dirs(names)]
    return {"time": time.time(), "runs": [status.as_json() for _, status in look(runs)]}


def look(runs: Sequence[Watched], seconds: float = float("inf")) -> list[tuple[Watched, Status]]:
    """Look at all runs, for about ``seconds`` together."""
    return [(run, run.look(seconds / len(runs))) for run in runs]


def panel(watched: Watched, status: Status, height: int, options: ConsoleOptions) -> Panel:
    """A run in a frame, with a curve ``height`` lines high if that is enough for one."""
    parts: list[RenderableType] = [_progress(status), _numbers(status)]
    if height >= CURVE[0]:
        series = watched.files.lines.get("loss")
        width = options.max_width - 4
        lines = (
            draw(series.iters, series.values, width, height, options.ascii_only) if series else []
        )
        parts.append(Text("\n".join(lines), "cyan", no_wrap=True))
    parts += [_results(group, status) for group in status.results]
    parts += _events(status)
    title = Text.assemble(state_text(status), "  ", (plain(status.work_dir), "bold"))
    subtitle = Text(plain(status.name), "dim") if status.name else None
    return Panel(Group(*parts), title=title, title_align="left", subtitle=subtitle)


def table(runs: Sequence[tuple[Watched, Status]], options: ConsoleOptions) -> Table:
    """All runs, a line each."""
    heads = ("run", "state", "iteration", "eta", "loss", "", "val loss", "tokens/s")
    view = Table(*heads, box=SIMPLE_HEAD, expand=True)
    view.columns[heads.index("")].min_width = SPARK
    for watched, status in runs:
        series = watched.files.lines.get("loss")
        curve = spark(series.values, SPARK, options.ascii_only) if series else ""
        val = status.results.get("val", {}).get("val/loss")
        view.add_row(
            Text(plain(Path(status.work_dir).name)),
            Text(status.state, COLOURS[status.state]),
            _place(status),
            _eta(status),
            _figure(status.last.get("loss"), "{:.4f}"),
            Text(curve, "cyan", no_wrap=True),
            _figure(val, "{:.4f}"),
            _figure(status.last.get("tokens_per_sec"), "{:,.0f}"),
        )
    return view


def state_text(status: Status) -> Text:
    """State, what is to be said of it, process, number of starts."""
    if status.unread:
        return Text(f"reading, {1 - status.unread:.0%} done", "dim")
    facts = [status.detail] if status.detail else []
    facts += [f"process {status.pid}"] if status.pid and status.state == "running" else []
    facts += [f"{status.starts} starts"] if status.starts > 1 else []
    more = ", ".join(facts)
    return Text.assemble(
        (status.state, COLOURS[status.state]), (f" ({plain(more)})" if more else "")
    )


def _progress(status: Status) -> Table:
    total = status.total_iters
    share = f"{status.iter / total:.0%}" if total else ""
    update, epoch = status.last.get("update"), status.last.get("epoch")
    words = [_place(status), share]
    words += [f"update {update:,}"] if isinstance(update, int) else []
    words += [f"epoch {epoch}"] if epoch is not None else []
    words += [f"eta {_eta(status)}"] if _eta(status) else []
    words += [f"{duration(status.quiet_seconds)} ago"]
    row = Table.grid(padding=(0, 1), expand=True)
    row.add_column(ratio=1)
    row.add_column(justify="right", no_wrap=True)
    row.add_row(
        ProgressBar(total=total or 1, completed=status.iter), "  ".join(filter(None, words))
    )
    return row


def _numbers(status: Status) -> Text:
    last = status.last
    seconds, data = number(last.get("time")), number(last.get("data_time"))
    share = f" ({data / seconds:.0%} data)" if seconds and data is not None else ""
    facts = {
        "loss": _figure(last.get("loss"), "{:.4f}"),
        "lr": _figure(last.get("lr"), "{:.3g}"),
        "grad norm": _figure(last.get("grad_norm"), "{:.3g}"),
        "tokens/s": _figure(last.get("tokens_per_sec"), "{:,.0f}"),
        "s/iter": _figure(seconds, "{:.3g}") + share if seconds else "",
        "memory": _figure(last.get("memory"), "{:,.0f} MB"),
    }
    text = Text(overflow="ellipsis", no_wrap=True)
    for name, value in facts.items():
        if value:
            text.append(f"{name} ", "dim").append(f"{value}   ")
    return text


def _results(group: str, status: Status) -> Text:
    """The newest results of a group of names, in a line."""
    found = status.results[group]
    text = Text(overflow="ellipsis", no_wrap=True)
    text.append(f"{group} at {found['iter']:,}  ", "dim")
    values = {key.removeprefix(f"{group}/"): value for key, value in found.items()}
    shown = {key: value for key, value in values.items() if key not in NOT_SHOWN}
    for key, value in list(shown.items())[:FEW]:
        text.append(f"{plain(key)} ", "dim").append(f"{value:.4g}  ")
    if len(shown) > FEW:
        text.append(f"and {len(shown) - FEW} more  ", "dim")
    if group == "val" and status.best and status.best[0] != found["iter"]:
        text.append(f"lowest loss {status.best[1]:.4g} at {status.best[0]:,}", "dim")
    return text


def _events(status: Status) -> list[Text]:
    """Checkpoint, evaluation jobs, the last warning, files that cannot be read."""
    facts = [f"checkpoint {plain(status.checkpoint)}"] if status.checkpoint else []
    facts += [plain(f"evaluation of {j['checkpoint']} {j['state']}") for j in status.jobs[-3:]]
    lines = [Text("   ".join(facts), "dim", overflow="ellipsis", no_wrap=True)] if facts else []
    if warned := status.warned:
        style = "yellow" if warned.level == "WARNING" else "red"
        text = f"{warned.level.lower()} {warned.time}  {plain(warned.text)}"
        lines.append(Text(text, style, overflow="ellipsis", no_wrap=True))
    return lines + [Text(f"cannot read {plain(why)}", "red") for why in status.problems]


def _place(status: Status) -> str:
    return f"{status.iter:,}/{status.total_iters:,}" if status.total_iters else f"{status.iter:,}"


def _eta(status: Status) -> str:
    if status.eta_seconds is None:
        return ""
    minutes, seconds = divmod(int(status.eta_seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}"


def _figure(value: Any, layout: str) -> str:
    found = number(value)
    return "" if found is None else layout.format(found)


def plain(text: str) -> str:
    """Return ``text`` without what would steer the terminal or cannot be written to it."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
