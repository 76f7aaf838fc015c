"""What a dry run prints: every setting with its origin, and what each worker would be."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from math import inf
from typing import Any

from rich import box
from rich.table import Table

from clusters.base import WorkerPlan
from launcher.output import Output
from launcher.prepare import Prepared

_AT_THE_START = {
    "MASTER_PORT": ("0", "a free port"),
    "GLOO_SOCKET_IFNAME": ("", "the interface of its address"),
    "NCCL_SOCKET_IFNAME": ("", "the interface of its address"),
    "HOROVOD_GLOO_IFACE": ("", "the interface of its address"),
    "HOROVOD_GLOO_RENDEZVOUS_PORT": ("0", "a free port"),
}
"""Variables whose values are known once the slots are claimed; until then, they have the first."""


def show(jobs: Sequence[Prepared], output: Output) -> None:
    """Prints what would be started: as tables, or with --json as one list of jobs, or one job."""
    if output.as_json:
        data = [as_data(job) for job in jobs]
        print(json.dumps(data[0] if len(data) == 1 else data, indent=2, allow_nan=False))
        return
    for job in jobs:
        output.people.print(_settings(job))
        output.say(decisions(job))
        output.people.print(_workers(job))
        for plan in job.plans:
            output.say(environment(plan, cuda=job.allocation.device == "cuda"))


def as_data(job: Prepared) -> dict[str, Any]:
    """A job's decisions as plain data."""
    allocation = job.allocation
    return {
        "settings": {
            name: {"value": value, "origin": job.sources[name]} for name, value in _values(job)
        },
        "device": allocation.device,
        "exchange": job.config.exchange,
        "threads": job.config.threads,
        "notes": list(allocation.notes),
        "workers": [
            {
                "rank": plan.rank,
                "host": plan.slot.host,
                "address": plan.slot.address,
                "local_rank": plan.slot.local_rank,
                "devices": [asdict(gpu) for gpu in plan.slot.devices],
                "processors": list(plan.slot.cpus),
                "argv": list(plan.argv),
                "env": dict(plan.env),
            }
            for plan in job.plans
        ],
    }


def decisions(job: Prepared) -> str:
    """What was decided for all workers."""
    lines = [
        f"Decided: {job.allocation.device}, {job.config.threads} compute threads a worker, "
        f"gradients by {job.config.exchange}"
    ]
    return "\n".join([*lines, *(f"  {note}" for note in job.allocation.notes)])


def environment(plan: WorkerPlan, *, cuda: bool) -> str:
    """A worker's variables, one a line."""
    lines = [f"Worker {plan.rank}, variables"]
    for name, value in sorted(plan.env.items()):
        unknown, later = _AT_THE_START.get(name, (None, ""))
        if name == "CUDA_VISIBLE_DEVICES" and not value and cuda:
            unknown, later = "", "those that Ray gives"
        lines.append(f"  {name}={f'({later}, at the start)' if value == unknown else value}")
    return "\n".join(lines)


def _values(job: Prepared) -> list[tuple[str, Any]]:
    """Every setting that has an origin, those of the place behind those of the job."""
    known = asdict(job.place.spec) | asdict(job.job)
    if known["wait"] == inf:
        known["wait"] = "for ever"  # JSON knows no infinity
    return [(name, known[name]) for name in job.sources]


def _settings(job: Prepared) -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    for column in ("setting", "value", "from"):
        table.add_column(column, overflow="fold")  # nothing is cut
    for name, value in _values(job):
        table.add_row(name, _text(value), job.sources[name])
    return table


def _workers(job: Prepared) -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    for column in ("rank", "host", "devices", "command"):
        table.add_column(column, overflow="fold")
    for plan in job.plans:
        slot = plan.slot
        gpus = ", ".join(str(gpu.index) for gpu in slot.devices)
        cuda = f"GPU {gpus}" if gpus else f"{slot.count} of the node's GPUs"
        bound = f", bound to processors {json.dumps(list(slot.cpus))}" if slot.cpus else ""
        where = f"{cuda}{bound}" if job.allocation.device == "cuda" else f"CPU{bound}"
        host = slot.host if slot.address.startswith("127.") else f"{slot.host} ({slot.address})"
        table.add_row(str(plan.rank), host, where, " ".join(plan.argv))
    return table


def _text(value: object) -> str:
    if value is None or value in ("", (), {}):
        return "-"
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
