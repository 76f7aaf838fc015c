"""One run, from what was given to the exit code."""

from __future__ import annotations

import json
import shlex
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console

from clusters.base import ClusterError
from launcher import __version__, signals
from launcher.events import EventReader
from launcher.job import Given, UserError
from launcher.plan import describe
from launcher.prepare import Prepared, prepare
from launcher.progress import make_display
from launcher.report import Report, failure_report, losses_csv, measured
from launcher.results import describe_failure
from launcher.supervise import Outcome, supervise
from launcher.table import render
from strategies.base import Rank, TrainMetrics, write_atomically


@dataclass(frozen=True, kw_only=True)
class Output:
    """How a run speaks: text to ``people``; with ``as_json`` the report to stdout.

    ``brief`` leaves the tables of a finished run to whoever compares several.
    """

    people: Console
    as_json: bool
    quiet: bool
    brief: bool = False

    def say(self, text: str) -> None:
        """Text as it is: nothing in it is markup, and lines are not cut."""
        self.people.print(text, markup=False, highlight=False, soft_wrap=True)


def run(given: Mapping[str, Given], out: Path | None, output: Output, *, dry_run: bool) -> int:
    """Does what was asked and returns the exit code. Raises UserError."""
    prepared = prepare(given, out)
    if dry_run:
        output.say(describe(prepared.job, prepared.allocation, prepared.config, prepared.plans))
        return 0
    outcome, report = carry_out(prepared, output)
    if output.as_json:
        print(report.to_json())
    return outcome.exit_code


def carry_out(prepared: Prepared, output: Output) -> tuple[Outcome, Report]:
    """Runs a job to its end, writes its report and tells of both. Raises UserError."""
    _create(prepared)
    if not output.quiet:
        output.say(_first_line(prepared))
    display = make_display(output.people, output.quiet)
    reader = EventReader(plan.events_path for plan in prepared.plans)

    def watch() -> None:
        for event in reader.read():
            display.take(event)
        display.draw()

    rank = Rank.from_environ(prepared.plans[0].env)
    serving = prepared.strategy.serve(rank.master_addr, rank.master_port)
    with signals.noted() as interrupts, serving:
        try:
            outcome = supervise(
                prepared.cluster, prepared.plans, interrupts=interrupts, watch=watch
            )
        except ClusterError as error:
            raise UserError(f"strategy {prepared.job.strategy}: {error}") from None
        finally:
            display.close()
    report = make_report(prepared, outcome)
    report.write(prepared.folder.report)
    _tell(prepared, outcome, report, output)
    return outcome, report


def make_report(prepared: Prepared, outcome: Outcome) -> Report:
    """Reads what the workers left; writes the losses of every step beside the report."""
    job, started = prepared.job, prepared.started
    result = prepared.plans[0].result_path
    metrics = None
    if result.exists() and not job.script:
        metrics = TrainMetrics.from_dict(json.loads(result.read_text()))
        write_atomically(prepared.folder.losses, losses_csv(metrics))
    return Report(
        version=__version__,
        status=outcome.status,
        strategy=job.strategy,
        workers=job.gpus,
        device=prepared.allocation.device,
        conditions=prepared.conditions,
        host=prepared.plans[0].slot.host,
        settings={name: value for name, value in asdict(job).items() if name != "sources"},
        sources=dict(job.sources),
        command=sys.argv,
        seconds=time.time() - started,
        failure=failure_report(outcome.failure) if outcome.failure else None,
        **(measured(metrics, started) if metrics else {}),
    )


def _create(prepared: Prepared) -> None:
    folder = prepared.folder
    try:
        for plan in prepared.plans:
            for path in (plan.log_path, plan.events_path, plan.result_path):
                path.parent.mkdir(parents=True, exist_ok=True)
        if not prepared.job.script:
            write_atomically(folder.config, prepared.config.to_json())
    except OSError as error:
        raise UserError(f"--out {folder.path}: cannot be written to: {error.strerror}") from None


def _first_line(prepared: Prepared) -> str:
    job, plans = prepared.job, prepared.plans
    what = shlex.join(job.script) if job.script else f"{job.model}, global batch {job.batch_size}"
    notes = "; ".join(prepared.allocation.notes)
    devices = "" if prepared.allocation.noun in notes else prepared.conditions
    if gpus := plans[0].slot.devices:
        devices = f"{job.gpus} x {gpus[0].name}"
    where = "; ".join(filter(None, (devices, notes)))
    return f"{job.strategy}: {what} on {plans[0].slot.host}: {where}"


def _tell(prepared: Prepared, outcome: Outcome, report: Report, output: Output) -> None:
    folder = prepared.folder
    if outcome.failure:
        output.say(describe_failure(outcome.failure))
    for plan in outcome.unkillable:
        output.say(f"rank {plan.rank} on {plan.slot.host} was killed, but has not ended")
    if outcome.signal:
        output.say(f"stopped by {signals.name(outcome.signal)}")
    if outcome.exit_code and any(folder.checkpoints.glob("step-*.safetensors")):
        output.say(f"nothing is lost up to the last epoch: go on with --resume {folder.path}")
    if outcome.exit_code == 0 and not output.quiet and not output.brief:
        output.people.print(render(report))
        output.say(f"report: {folder.report}")
