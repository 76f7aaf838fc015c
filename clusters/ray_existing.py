"""``ray`` at an address: the workers run in actors on the nodes of an existing Ray cluster.

The launching process never imports Ray. A guarded helper (``ray_envoy.py``) joins the cluster;
requests, orders and news go through a socket. When the helper goes, Ray ends its actors, and their
guards end the workers.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from clusters import ray_access
from clusters.base import (
    Allocation,
    ClusterError,
    ClusterSpec,
    Gpu,
    Host,
    Slot,
    Worker,
    WorkerPlan,
)
from clusters.local import linked
from clusters.placement import allocate, needs
from clusters.ray_link import Link, LinkedWorker
from clusters.shipping import Shipment, stage, working_dir
from clusters.swept import SweptFolder

_RELEASE_S = 10.0
# Ray kills an actor's children, but not theirs: our guards end them all, so they have to stay.
_OWN_CHILDREN = {"RAY_kill_child_processes_on_worker_exit": "false"}


class ExistingRay:
    """The cluster at ``spec.address``."""

    remote = True
    settle_s = 25.0  # a lost node shows after some ten seconds of silence

    def __init__(self, spec: ClusterSpec, environ: Mapping[str, str] | None = None) -> None:
        assert spec.address is not None
        self._spec, self._address = spec, spec.address
        self._environ = dict(os.environ if environ is None else environ)
        self._link: Link | None = None
        self._folder: SweptFolder | None = None
        self._shipment = Shipment((), 0)
        self._claimed: tuple[Slot, ...] = ()

    def probe(self) -> tuple[Host, ...]:
        answer = self._connection().request("hosts")
        return tuple(Host(**host) for host in answer)

    def allocate(
        self, hosts: tuple[Host, ...], workers: int, device: str, process_per: str
    ) -> Allocation:
        allocation = allocate(hosts, self._spec, workers, device, process_per)
        sent = (self._shipment.note,) if self._shipment.modules else ()
        return replace(allocation, notes=(*allocation.notes, *sent))

    def claim(self, allocation: Allocation) -> Allocation:
        need = needs(self._spec, allocation.device)
        places = self._connection().request(
            "claim",
            bundles=[
                {name: amount * slot.count for name, amount in need.items()}
                for slot in allocation.slots
            ],
            nodes=[slot.node for slot in allocation.slots],
            strategy=self._spec.placement.upper().replace("-", "_"),
        )
        claimed = placed(allocation, places)
        self._claimed = claimed.slots
        return claimed

    def ask(self, module: str, *arguments: str) -> dict[str, str]:
        """Raises ClusterError for a node on which that fails."""
        answers = self._connection().request("ask", module=module, arguments=arguments)
        hosts = {slot.node: f"{slot.host} ({slot.address})" for slot in self._claimed}
        for answer in answers:
            if "error" in answer:
                raise ClusterError(f"{hosts[answer['node']]}: {answer['error']}")
        return {hosts[answer["node"]]: answer["out"] for answer in answers}

    def start(self, plan: WorkerPlan) -> Worker:
        link = self._connection()
        link.send(
            do="start",
            rank=plan.rank,
            node=plan.slot.node,
            argv=plan.argv,
            beside=plan.beside,
            env=dict(plan.env),
            python=sys.executable,
            run=str(plan.folder),
            inputs={name: str(path) for name, path in plan.inputs.items()},
            log=str(plan.log_path),
            events=str(plan.events_path),
            result=str(plan.result_path),
        )
        return LinkedWorker(plan, link)

    def release(self) -> None:
        if self._link is not None and self._link.alive:
            self._link.forget()
            with suppress(ClusterError):  # the connection is lost, and all claims with it
                self._link.request("release", patience_s=_RELEASE_S)
        self._claimed = ()

    def close(self) -> None:
        if self._link is not None:
            self._link.close()
            self._link = None
        if self._folder is not None:
            self._folder.close()
            self._folder = None

    def _connection(self) -> Link:
        """The helper, started if it has to be. Raises ClusterError."""
        if self._link is not None and not self._link.alive:
            self.close()  # it was lost; the cluster may be back
        if self._link is None:
            if problem := ray_access.check(self._address, self._environ):
                raise ClusterError(problem)
            self._folder = SweptFolder()
            self._shipment = stage(self._folder.path / "code")
            environment: dict[str, object] = {
                "py_modules": list(map(str, self._shipment.modules)),
                "env_vars": _OWN_CHILDREN,
            }
            if self._spec.ships_folder:
                environment |= working_dir(Path.cwd(), self._spec.exclude)
            self._link = Link(
                "clusters.ray_envoy",
                {"address": self._address, "runtime_env": environment},
                {**self._environ, "RAY_RUNTIME_ENV_IGNORE_GITIGNORE": "1"},
                self._folder,
                explain=lambda text: ray_access.explain(
                    text, self._address, self._environ, Path.home()
                ),
            )
        return self._link


def placed(allocation: Allocation, places: list[dict[str, Any]]) -> Allocation:
    """The allocation with what its actors say of their places. Pure.

    GPUs that Ray declares and the nodes do not have make CPU workers of a job that did not ask for
    GPUs; else, ClusterError.
    """
    found = [tuple(_gpu(gpu) for gpu in place["gpus"]) for place in places]
    declared = [place["declared"] for place in places]
    slots = tuple(
        replace(
            slot,
            address=place["address"],
            interface=place["interface"],
            port=place["port"],
            devices=gpus,
            host_devices=tuple(
                gpu
                for other, ids in zip(allocation.slots, declared, strict=True)
                if other.host_index == slot.host_index
                for gpu in ids
            ),
        )
        for slot, place, gpus in zip(allocation.slots, places, found, strict=True)
    )
    lacking = [
        slot.host
        for slot, ids, gpus in zip(slots, declared, found, strict=True)
        if len(gpus) < len(ids) and not any(gpu.startswith("MIG-") for gpu in ids)
    ]
    if allocation.device == "cuda" and lacking:
        return _without_gpus(allocation, slots, lacking, places)
    everyone = tuple(gpu for gpus in found for gpu in gpus)
    return replace(allocation, slots=slots, linked=allocation.hosts == 1 and linked(everyone))


def _without_gpus(
    allocation: Allocation,
    slots: tuple[Slot, ...],
    lacking: list[str],
    places: list[dict[str, Any]],
) -> Allocation:
    names = ", ".join(dict.fromkeys(lacking))
    problem = next((place["gpu_problem"] for place in places if place["gpu_problem"]), "")
    if problem or not allocation.chosen_for_us or len(lacking) < len(slots):
        why = problem or "NVML finds none of them there"
        raise ClusterError(f"Ray declares GPUs on {names}, and {why}; ask for --device cpu")
    note = f"Ray declares GPUs that its nodes do not have: {allocation.workers} {allocation.noun}s"
    return replace(
        allocation,
        device="cpu",
        slots=tuple(replace(slot, devices=(), host_devices=()) for slot in slots),
        notes=(note, *allocation.notes),
    )


def _gpu(values: dict[str, Any]) -> Gpu:
    return Gpu(**{**values, "nvlinked": tuple(values["nvlinked"])})
