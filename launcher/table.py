"""The report as a person reads it on a terminal."""

from __future__ import annotations

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from launcher.report import Report
from launcher.scaling import ScalingPoint


def render(report: Report) -> RenderableType:
    """Accuracy by epoch, speed, scaling and its losses, the verdict."""
    parts: list[RenderableType] = []
    if report.epochs:
        parts.append(_epochs(report))
    parts.append(_figures(report))
    if report.verdict:
        beside = f" ({report.conditions})" if report.conditions else ""
        parts.append(Text(f"{report.verdict}{beside}.", style="bold"))
    return Group(*parts)


def _epochs(report: Report) -> Table:
    table = Table(box=box.SIMPLE_HEAD, caption=report.conditions or None, caption_justify="left")
    held_out = report.epochs[0].validation_accuracy is not None
    columns = ["epoch", "train loss", "test loss", "test accuracy", "seconds"]
    if held_out:
        columns[2:2] = ["validation loss", "validation accuracy"]
    for column in columns:
        table.add_column(column, justify="right")
    for epoch in report.epochs:
        row = [f"{epoch.epoch}", f"{epoch.train_loss:.4f}", f"{epoch.test_loss:.4f}"]
        row += [f"{epoch.test_accuracy:.2%}", f"{epoch.seconds:.2f}"]
        if held_out:
            row[2:2] = [f"{epoch.validation_loss:.4f}", f"{epoch.validation_accuracy:.2%}"]
        table.add_row(*row)
    return table


def _figures(report: Report) -> Table:
    table = Table(box=box.SIMPLE, show_header=False, padding=(0, 1, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_column()
    table.add_column(style="dim")
    for name, value, meaning in _rows(report):
        table.add_row(name, value, meaning, report.conditions)
    return table


def _rows(report: Report) -> list[tuple[str, str, str]]:
    rows = []
    for restart in report.restarts:
        failure = restart.failure
        what = f"rank {failure.rank} on {failure.host}: {failure.end}"
        if restart.workers != restart.workers_before:
            what += f"; from then on {restart.workers} instead of {restart.workers_before} workers"
        rows.append(("restart", "", what))
    if report.time_to_first_step_s is not None:
        value = f"{report.time_to_first_step_s:.2f} s"
        rows.append(("first step", value, "after the command"))
    if report.throughput:
        speed = report.throughput
        spread = f"samples/s; {speed.min:,.0f} to {speed.max:,.0f} in {speed.windows} windows"
        rows.append(("throughput", f"{speed.median:,.0f}", spread))
    for point in report.scaling[:1]:
        rows += _scaling_rows(point, report.exchange)
    for point in report.scaling[1:]:
        meaning = f"with {point.batch_per_worker} a worker; efficiency {_spread(point)}"
        rows.append(("speedup", f"{point.speedup:.2f}x", meaning))
    return rows


def _scaling_rows(point: ScalingPoint, exchange: str) -> list[tuple[str, str, str]]:
    weak = f"over one worker; {point.batch_per_worker} samples a worker"
    return [
        ("speedup", f"{point.speedup:.2f}x", f"{weak} (weak scaling)"),
        ("efficiency", f"{point.efficiency:.0%}", f"{_spread(point)} in {point.rounds} rounds"),
        (" contention", f"{point.contention:.2f}", _times(point.alone_s, point.apart_mean_s)),
        (" skew", f"{point.skew:.2f}", f"rank {point.slowest_rank} is the slowest"),
        (
            " communication",
            f"{point.communication:.2f}",
            f"{_times(point.apart_max_s, point.together_s)}; {exchange}",
        ),
    ]


def _spread(point: ScalingPoint) -> str:
    return f"{point.efficiency_min:.0%} to {point.efficiency_max:.0%}"


def _times(before: float, after: float) -> str:
    return f"{before * 1e3:.2f} -> {after * 1e3:.2f} ms a step"
