"""The same training under several strategies: one table, one JSON."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from rich import box
from rich.table import Table

from launcher.describe import show
from launcher.errors import UserError
from launcher.job import Given
from launcher.output import Output
from launcher.prepare import Prepared, choose_folder, prepare
from launcher.report import Report, finite
from launcher.run import carry_out
from strategies import STRATEGIES
from strategies.base import write_atomically

COMPARED_STEPS = 200


@dataclass(frozen=True, kw_only=True)
class Compared:
    """One strategy's run.

    ``curve_difference``: the largest relative difference of its losses from the first strategy's
    over the first 200 steps; None where one of the two has none.
    """

    strategy: str
    report: Report
    folder: str
    curve_difference: float | None


def compare(
    names: Sequence[str],
    given: Mapping[str, Given],
    out: Path | None,
    output: Output,
    *,
    dry_run: bool,
) -> int:
    """Runs the job under each strategy in turn; returns the exit code: the first failure's.

    All are prepared before the first one starts, so that what is missing is told at once. One
    that fails does not keep the others from running; a signal does. Raises UserError.
    """
    _check(names, given)
    model = given["model"].value if "model" in given else "model"
    folder = choose_folder(out, f"compare-{model}")
    with ExitStack() as stack:
        jobs = [
            stack.enter_context(closing(prepare(asked, folder / name, output)))
            for name, asked in _each(names, given).items()
        ]
        if dry_run:
            show(jobs, output)
            return 0
        code, compared = _run_all(jobs, replace(output, brief=True))
    text = json.dumps(finite([asdict(one) for one in compared]), indent=2, allow_nan=False)
    write_atomically(folder / "compare.json", text + "\n")
    if not output.quiet:
        output.people.print(table(compared))
        output.say(f"comparison: {folder / 'compare.json'}")
    if output.as_json:
        print(text)
    return code


def _each(names: Sequence[str], given: Mapping[str, Given]) -> dict[str, dict[str, Given]]:
    return {name: {**given, "strategy": Given(name, "--strategies")} for name in names}


def _run_all(jobs: Sequence[Prepared], output: Output) -> tuple[int, list[Compared]]:
    compared: list[Compared] = []
    code, first = 0, None
    for number, job in enumerate(jobs):
        begun = time.time()
        outcome, report = carry_out(replace(job, started=begun) if number else job, output)
        losses = _losses(job)
        first = first or losses
        compared.append(
            Compared(
                strategy=job.job.strategy,
                report=report,
                folder=str(job.folder.path),
                curve_difference=largest_difference(first, losses),
            )
        )
        code = code or outcome.exit_code
        if outcome.signal is not None:
            break
    return code, compared


def largest_difference(one: Sequence[float], other: Sequence[float]) -> float | None:
    """The largest relative difference of two loss curves over the first steps that both have."""
    pairs = list(zip(one[:COMPARED_STEPS], other[:COMPARED_STEPS], strict=False))
    return max((abs(a - b) / max(abs(a), 1e-12) for a, b in pairs), default=None)


def table(compared: Sequence[Compared]) -> Table:
    """A column a strategy, its conditions in the heading: they belong to every figure below."""
    rows = Table(box=box.SIMPLE_HEAD)
    rows.add_column("")
    for one in compared:
        conditions = f"\n{one.report.conditions}" if one.report.conditions else ""
        rows.add_column(f"{one.strategy}{conditions}", justify="right")
    columns = [_cells(one.report, one.curve_difference) for one in compared]
    for name in dict.fromkeys(name for column in columns for name in column):
        rows.add_row(name, *(column.get(name, "-") for column in columns))
    return rows


def _cells(report: Report, curve_difference: float | None) -> dict[str, str]:
    """What the table says of a run, by the row's name."""
    if report.status != "completed":
        return {"status": report.status}
    cells = {}
    if report.epochs:
        cells["test accuracy"] = f"{report.epochs[-1].test_accuracy:.2%}"
    if report.throughput:
        cells["samples/s"] = f"{report.throughput.median:,.0f}"
        cells[" from"] = f"{report.throughput.min:,.0f}"
        cells[" to"] = f"{report.throughput.max:,.0f}"
    if report.time_to_first_step_s is not None:
        cells["first step"] = f"{report.time_to_first_step_s:.2f} s"
    for point in report.scaling[:1]:
        cells["speedup"] = f"{point.speedup:.2f}x"
        cells["efficiency"] = f"{point.efficiency:.0%}"
        cells[" lost to contention"] = f"{point.contention_share:.0%}"
        cells[" lost to skew"] = f"{point.skew_share:.0%}"
        cells[" lost to communication"] = f"{point.communication_share:.0%}"
    cells["exchange"] = report.exchange
    if curve_difference is not None:
        cells["loss curve differs by"] = f"{curve_difference:.0e}"
    return cells


def _losses(job: Prepared) -> list[float]:
    path = job.folder.losses
    if not path.exists():
        return []
    return [float(line.split(",")[1]) for line in path.read_text().splitlines()[1:]]


def _check(names: Sequence[str], given: Mapping[str, Given]) -> None:
    for name in names:
        if name not in STRATEGIES:
            raise UserError(f"--strategies {name}: not known; there are {', '.join(STRATEGIES)}")
    if not names or len(set(names)) < len(names):
        raise UserError(f"--strategies {','.join(names)}: name each strategy once, at least one")
    for name in ("strategy", "script"):
        if name in given:
            raise UserError(
                f"{given[name].source} {given[name].value}: compare runs the built-in training "
                "under each of --strategies"
            )
