"""One line of `inlay doctor`."""

from __future__ import annotations

from dataclasses import dataclass

OK, WARN, FAIL = "ok", "warn", "fail"
GB = 1e9


@dataclass(frozen=True)
class Finding:
    """What one check has found.

    Attributes:
        group: what it belongs to: machine, folders, environment, libraries, devices, packing.
        name: of the check.
        status: ``"ok"``, ``"warn"`` (something will be slow, or a part of Inlay does not work) or
            ``"fail"`` (training will not work).
        text: what was found.
        advice: what to do, or an empty string.
    """

    group: str
    name: str
    status: str
    text: str
    advice: str = ""


def gigabytes(count: float) -> str:
    """Bytes as text, in GB (10^9)."""
    return f"{count / GB:,.1f} GB"


def graded(amount: float, warn_below: float, fail_below: float) -> str:
    """The status of an amount of which there should be much."""
    return FAIL if amount < fail_below else WARN if amount < warn_below else OK
