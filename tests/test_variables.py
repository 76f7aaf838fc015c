"""Whose word counts in a worker's environment: ours, the cluster file's or the user's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from clusters.base import Allocation, Slot, WorkerPlan
from launcher.folder import RunFolder
from launcher.job import Given, JobSpec, resolve
from launcher.plan import RESUMED, make_config, make_plans
from launcher.variables import wanted
from strategies import load_strategy

FOLDER = RunFolder(path=Path("/runs/first"))
# Two workers on the first node, one on the second.
SLOTS = tuple(
    Slot(
        host=f"n{host}",
        host_index=host,
        local_rank=local_rank,
        address=f"10.0.0.{host}",
        interface=f"eth{host}",
        port=30_000 + number,
        node=f"id{host}",
    )
    for number, (host, local_rank) in enumerate([(0, 0), (0, 1), (1, 0)])
)


def job_of(**given: Any) -> JobSpec:
    flags = {name: Given(value, f"--{name}") for name, value in given.items()}
    return resolve({"gpus": Given(3, ""), **flags}, default_gpus=1, samples=60_000, checkpoint=None)


def plans_of(
    environ: Mapping[str, str] | None = None,
    env: Mapping[str, str] | None = None,
    *,
    slots: tuple[Slot, ...] = SLOTS,
    folder: RunFolder = FOLDER,
    remote: bool = True,
    **given: Any,
) -> tuple[WorkerPlan, ...]:
    job = job_of(**given)
    allocation = Allocation(slots=slots, device="cpu", cores_per_worker=1)
    return make_plans(
        job, load_strategy(job.strategy), allocation, folder, environ or {}, env=env, remote=remote
    )


def column(plans: tuple[WorkerPlan, ...], name: str) -> list[str]:
    return [plan.env[name] for plan in plans]


def test_the_ranks_of_several_nodes_are_torchruns() -> None:
    plans = plans_of()
    assert column(plans, "RANK") == ["0", "1", "2"]
    assert column(plans, "LOCAL_RANK") == ["0", "1", "0"]
    assert column(plans, "LOCAL_WORLD_SIZE") == ["2", "2", "1"]
    assert column(plans, "GROUP_RANK") == ["0", "0", "1"]
    assert column(plans, "GROUP_WORLD_SIZE") == ["2", "2", "2"]


def test_all_meet_at_the_first_workers_address_and_port() -> None:
    plans = plans_of()
    assert set(column(plans, "MASTER_ADDR")) == {"10.0.0.0"}
    assert set(column(plans, "MASTER_PORT")) == {"30000"}


def test_each_worker_talks_through_its_own_nodes_interface() -> None:
    for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
        assert column(plans_of(), name) == ["eth0", "eth0", "eth1"]
    assert column(plans_of(strategy="horovod"), "HOROVOD_GLOO_IFACE") == ["eth0", "eth0", "eth1"]


def test_a_restart_has_files_of_its_own_and_torchruns_count() -> None:
    again = plans_of(folder=replace(FOLDER, restarts=2), max_restarts=3)[1]
    assert again.log_path == FOLDER.path / "logs/rank-1-restart-2.log"
    assert again.env["TROIKA_RESULT"] == "/runs/first/results/rank-1-restart-2.json"
    assert again.env["TORCHELASTIC_RESTART_COUNT"] == "2"
    assert again.env["TORCHELASTIC_MAX_RESTARTS"] == "3"


@pytest.mark.parametrize("name", ["RANK", "MASTER_ADDR", "CUDA_VISIBLE_DEVICES", "TROIKA_EVENTS"])
def test_nobody_sets_the_launchers_own_variables(name: str) -> None:
    given = plans_of()[0].env[name]
    assert plans_of({name: "theirs"}, {name: "the file's"})[0].env[name] == given


@pytest.mark.parametrize("name", ["OMP_NUM_THREADS", "NCCL_SOCKET_IFNAME", "PYTHONUNBUFFERED"])
def test_a_cluster_file_may_set_our_defaults_and_the_environment_goes_before_it(name: str) -> None:
    assert plans_of({}, {name: "7"})[0].env[name] == "7"
    assert plans_of({name: "8"}, {name: "7"})[0].env[name] == "8"


def test_the_file_may_set_horovods_cycle_time_but_not_its_ranks() -> None:
    env = {"HOROVOD_CYCLE_TIME": "9", "HOROVOD_RANK": "9"}
    plan = plans_of({}, env, strategy="horovod")[0]
    assert (plan.env["HOROVOD_CYCLE_TIME"], plan.env["HOROVOD_RANK"]) == ("9", "0")


@pytest.mark.parametrize("remote", [False, True])
def test_other_variables_of_a_cluster_file_come_through(remote: bool) -> None:
    assert plans_of({}, {"MY_FLAG": "1"}, remote=remote)[2].env["MY_FLAG"] == "1"
    environ = {"MY_FLAG": "2"}
    assert plans_of(environ, {"MY_FLAG": "1"}, remote=remote)[2].env["MY_FLAG"] == "2"


SETTINGS = {"NCCL_DEBUG": "INFO", "TORCH_LOGS": "x", "XLA_FLAGS": "y", "TF_XLA_FLAGS": "z"}
PRIVATE = {"HOME": "/me", "PATH": "/bin", "AWS_SECRET": "s", "TF_CONFIG": "{}", "RAY_ADDRESS": "a"}


def test_another_host_gets_the_frameworks_settings_and_nothing_else_of_the_environment() -> None:
    assert wanted({}, {}, SETTINGS | PRIVATE, remote=True) == SETTINGS


def test_this_hosts_workers_inherit_and_need_nothing_said() -> None:
    assert wanted({}, {}, SETTINGS | PRIVATE, remote=False) == {}


def test_a_workers_files_are_named_to_another_host() -> None:
    plan = plans_of(resume="/elsewhere/step-00000600.safetensors")[0]
    assert plan.folder == FOLDER.path
    assert plan.inputs == {
        "job.json": FOLDER.config,
        RESUMED: Path("/elsewhere/step-00000600.safetensors"),
    }
    assert "PYTHONPATH" not in plan.env


def test_a_script_on_another_host_needs_no_inputs() -> None:
    assert plans_of(script=["train.py"])[0].inputs == {}


@pytest.mark.parametrize(
    ("remote", "resume"), [(False, "/elsewhere/step-9.safetensors"), (True, RESUMED)]
)
def test_a_checkpoint_is_read_from_where_the_worker_has_it(remote: bool, resume: str) -> None:
    job = job_of(resume="/elsewhere/step-9.safetensors")
    allocation = Allocation(slots=SLOTS, device="cpu", cores_per_worker=1)
    config = make_config(job, load_strategy("ddp"), allocation, FOLDER, {}, remote=remote)
    assert config.resume == resume


def test_horovods_store_is_served_beside_the_first_worker_on_another_host() -> None:
    plans = plans_of(strategy="horovod")
    assert plans[0].beside[1:] == ("-m", "strategies.gloo_store", "10.0.0.0", "30000")
    assert [plan.beside for plan in plans[1:]] == [(), ()]
    assert plans_of(strategy="horovod", remote=False)[0].beside == ()


def test_several_hosts_of_mirrored_find_each_other_by_tf_config() -> None:
    slots = tuple(replace(slot, count=1) for slot in (SLOTS[0], SLOTS[2]))
    plans = plans_of(slots=slots, strategy="mirrored", gpus=2)
    workers = '{"worker": ["10.0.0.0:30000", "10.0.0.1:30002"]}'
    assert column(plans, "TF_CONFIG") == [
        f'{{"cluster": {workers}, "task": {{"type": "worker", "index": {index}}}}}'
        for index in (0, 1)
    ]


def test_one_host_of_mirrored_has_no_tf_config() -> None:
    assert "TF_CONFIG" not in plans_of(slots=SLOTS[:1], strategy="mirrored", gpus=1)[0].env
