"""One run, from what was given to the exit code."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

from launcher import signals
from launcher.attempt import Attempt, attempt_at, first_claim
from launcher.describe import show
from launcher.errors import UserError
from launcher.history import make_report
from launcher.homecoming import bring_home
from launcher.job import Given
from launcher.output import Output
from launcher.prepare import Prepared, prepare
from launcher.report import Report
from launcher.restart import go_on
from launcher.results import describe_failure
from launcher.supervise import Outcome
from launcher.table import render


def run(given: Mapping[str, Given], out: Path | None, output: Output, *, dry_run: bool) -> int:
    """Does what was asked and returns the exit code. Raises UserError."""
    with closing(prepare(given, out, output)) as prepared:
        if dry_run:
            show([prepared], output)
            return 0
        outcome, report = carry_out(prepared, output)
    if output.as_json:
        print(report.to_json())
    bring_home(prepared.folder.path, os.environ)
    return outcome.exit_code


def carry_out(prepared: Prepared, output: Output) -> tuple[Outcome, Report]:
    """Runs a job to its end, restarts included, writes its report and tells of both.

    Raises UserError.
    """
    following: Prepared | None = first_claim(prepared, output)
    _create(prepared)
    attempts: list[Attempt] = []
    while following is not None:
        attempt = attempt_at(following, output)
        attempts.append(attempt)
        attempt, following = go_on(attempt, output)
        attempts[-1] = attempt
    report = make_report(attempts)
    report.write(prepared.folder.report)
    _tell(attempts[-1], report, output)
    return attempts[-1].outcome, report


def _create(prepared: Prepared) -> None:
    folder = prepared.folder
    try:
        for plan in prepared.plans:
            for path in (plan.log_path, plan.events_path, plan.result_path):
                path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--out {folder.path}: cannot be written to: {error.strerror}") from None


def _tell(attempt: Attempt, report: Report, output: Output) -> None:
    folder, outcome = attempt.prepared.folder, attempt.outcome
    if outcome.failure and not attempt.told:
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
