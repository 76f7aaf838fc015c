"""One attempt at a job: its slots claimed, its nodes compared, its workers followed to the end."""

from __future__ import annotations

import json
import shlex
import time
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass, replace

from clusters.base import ClusterError, NoRoom
from launcher import signals
from launcher.errors import UserError
from launcher.events import EventReader
from launcher.output import Output
from launcher.prepare import Prepared
from launcher.progress import make_display
from launcher.room import Wait, find_room
from launcher.supervise import Outcome, supervise
from strategies.base import Rank, TrainMetrics, write_atomically


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """``prepared`` is what was claimed; ``metrics`` what the first rank had measured by its end.

    ``told``: whether its failure has been described already.
    """

    prepared: Prepared
    outcome: Outcome
    metrics: TrainMetrics | None
    told: bool = False


def first_claim(prepared: Prepared, output: Output) -> Prepared:
    """Claims the slots, or others in their place while the job may wait. Raises UserError."""
    cluster, job = prepared.cluster, prepared.job
    deadline = time.monotonic() + (job.wait or 0)
    with closing(Wait(output)) as wait:
        while True:
            try:
                return claimed(prepared)
            except NoRoom as error:  # somebody else was faster
                if time.monotonic() >= deadline:
                    raise UserError(f"{prepared.place.title}: {error}") from None
                left = replace(job, wait=deadline - time.monotonic())
                allocation = find_room(cluster, cluster.probe(), left, prepared.strategy, wait)
                prepared = prepared.decided(allocation=allocation)
            except ClusterError as error:
                raise UserError(f"{prepared.place.title}: {error}") from None


def claimed(prepared: Prepared) -> Prepared:
    """Takes hold of the slots and compares their nodes. Raises ClusterError, UserError."""
    cluster = prepared.cluster
    prepared = prepared.decided(allocation=cluster.claim(prepared.allocation))
    if not cluster.remote:
        return prepared
    try:
        return _compared(prepared)
    except BaseException:
        cluster.release()
        raise


def attempt_at(prepared: Prepared, output: Output) -> Attempt:
    """Runs a claimed job to its end. Raises UserError."""
    try:
        if not prepared.job.script:
            write_atomically(prepared.folder.config, prepared.config.to_json())
        if not output.quiet:
            output.say(first_line(prepared))
        outcome = _follow(prepared, output)
    except ClusterError as error:
        raise UserError(f"{prepared.place.title}: {error}") from None
    finally:
        prepared.cluster.release()
    return Attempt(prepared=prepared, outcome=outcome, metrics=_metrics(prepared))


def first_line(prepared: Prepared) -> str:
    """What runs where."""
    job, slots = prepared.job, prepared.allocation.slots
    what = shlex.join(job.script) if job.script else f"{job.model}, global batch {job.batch_size}"
    notes = "; ".join(prepared.allocation.notes)
    devices = "" if prepared.allocation.noun in notes else prepared.conditions
    if gpus := slots[0].devices:
        devices = f"{prepared.allocation.workers} x {gpus[0].name}"
    where = "; ".join(filter(None, (devices, notes)))
    hosts = list(dict.fromkeys(slot.host for slot in slots))
    place = f" of {prepared.place.title}" if prepared.cluster.remote else ""
    return f"{job.strategy}: {what} on {', '.join(hosts)}{place}: {where}"


def _compared(prepared: Prepared) -> Prepared:
    """With a note on what differs among its nodes; refuses those that would not train the same.

    Costs each node half a second. Raises UserError.
    """
    # Only where there are several: their imports take as long as all others here.
    from launcher.agreement import disagreement, python_note
    from strategies.facts import Facts, code_hash

    job, cluster = prepared.job, prepared.cluster
    arguments = ["--script"] if job.script else []
    if job.data_dir:
        arguments += ["--data", job.data_dir]
    try:
        answers = cluster.ask("strategies.facts", job.strategy, *arguments)
        facts = [(host, Facts.from_json(text)) for host, text in answers.items()]
    except (ClusterError, ValueError) as error:
        raise UserError(f"{prepared.place.title}: {error}") from None
    if problem := disagreement(facts, code_hash()):
        raise UserError(problem)
    if note := python_note(facts):
        notes = (*prepared.allocation.notes, note)
        return replace(prepared, allocation=replace(prepared.allocation, notes=notes))
    return prepared


def _follow(prepared: Prepared, output: Output) -> Outcome:
    display = make_display(output.people, output.quiet)
    reader = EventReader(plan.events_path for plan in prepared.plans)

    def watch() -> None:
        for event in reader.read():
            display.take(event)
        display.draw()

    with signals.noted() as interrupts, _serving(prepared):
        try:
            return supervise(prepared.cluster, prepared.plans, interrupts=interrupts, watch=watch)
        finally:
            display.close()


def _serving(prepared: Prepared) -> AbstractContextManager[None]:
    """What the strategy serves, unless it runs beside a worker (``WorkerPlan.beside``)."""
    if prepared.cluster.remote:
        return nullcontext()
    rank = Rank.from_environ(prepared.plans[0].env)
    return prepared.strategy.serve(rank.master_addr, rank.master_port)


def _metrics(prepared: Prepared) -> TrainMetrics | None:
    result = prepared.plans[0].result_path
    if prepared.job.script or not result.exists():
        return None
    return TrainMetrics.from_dict(json.loads(result.read_text()))
