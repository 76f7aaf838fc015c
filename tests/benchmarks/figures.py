"""The table of a benchmark's figures, and what they were measured on."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from statistics import median

from rich.console import Console
from rich.table import Table

console = Console(width=None if sys.stdout.isatty() else 125)
_LIBRARIES = ("torch", "tensorflow", "keras", "horovod", "ray")


@dataclass(frozen=True, kw_only=True)
class Row:
    """One case: the values of both sides, round by round; ``target`` is for the median ratio."""

    name: str
    reference: Sequence[float]
    ours: Sequence[float]
    target: float | None = None

    @property
    def ratios(self) -> list[float]:
        return [ours / other for ours, other in zip(self.ours, self.reference, strict=True)]


def show(
    title: str,
    sides: tuple[str, str],
    rows: Sequence[Row],
    *,
    decimals: int,
    lower_is_better: bool,
) -> None:
    """Prints the table, what it was measured on and how many targets were met.

    ``sides`` names the reference and ours; ``decimals`` are those of the values.
    """
    sign, factor = ("<=", 1) if lower_is_better else (">=", -1)
    aimed = [(median(row.ratios), row.target) for row in rows if row.target is not None]
    table = Table(title=title, caption="median (min-max); ratio of the values of each round")
    table.add_column("case")
    headings = [*sides, "ratio"] + ["target"] * bool(aimed)
    for heading in headings:
        table.add_column(heading, justify="right")
    for row in rows:
        cells = [_spread(row.reference, decimals), _spread(row.ours, decimals)]
        target = "" if row.target is None else f"{sign} {row.target:.2f}"
        table.add_row(row.name, *[*cells, _spread(row.ratios, 2), target][: len(headings)])
    console.print(table)
    console.print(machine(), highlight=False)
    if aimed:
        met = sum(factor * ratio <= factor * target for ratio, target in aimed)
        console.print(f"{met} of {len(aimed)} targets met by the median ratio", highlight=False)


def machine() -> str:
    """What the figures depend on. ``load``: processes that wanted a core, a mean over a minute."""
    return ", ".join(
        (
            f"{len(os.sched_getaffinity(0))} cores",
            f"load {os.getloadavg()[0]:.1f}",
            f"Python {platform.python_version()}",
            *(f"{name} {_version(name)}" for name in _LIBRARIES),
            f"{datetime.now().astimezone():%Y-%m-%d %H:%M}",
        )
    )


def _version(library: str) -> str:
    try:
        return version(library)
    except PackageNotFoundError:
        return "missing"


def _spread(values: Sequence[float], decimals: int) -> str:
    middle, low, high = (f"{f(values):,.{decimals}f}" for f in (median, min, max))
    return f"{middle} ({low}-{high})"
