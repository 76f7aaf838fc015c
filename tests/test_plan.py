"""Plans: what each worker runs, with which variables, threads and files."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import strategies
from clusters.base import Allocation, Gpu, Host, WorkerPlan
from clusters.local import allocate
from launcher.errors import UserError
from launcher.folder import RunFolder
from launcher.job import Given, JobSpec, resolve
from launcher.plan import choose_exchange, make_config, make_plans, threads_for
from strategies import load_strategy
from strategies.base import TrainConfig

CPUS = Host(name="here", cores=16)
GPUS = tuple(Gpu(index=i, uuid=f"GPU-{i}", name="H200", memory_bytes=1 << 37) for i in range(4))
FOLDER = RunFolder(path=Path("runs/first"))


def job_of(**given: Any) -> JobSpec:
    flags = {name: Given(value, f"--{name}") for name, value in given.items()}
    return resolve(flags, default_gpus=2, samples=60_000, checkpoint=None)


def plans_of(
    host: Host = CPUS, environ: Mapping[str, str] | None = None, **given: Any
) -> tuple[WorkerPlan, ...]:
    job = job_of(**given)
    strategy = load_strategy(job.strategy)
    allocation = claimed(allocate(host, job.gpus, job.device, strategy.process_per))
    return make_plans(job, strategy, allocation, FOLDER, environ or {})


def claimed(allocation: Allocation) -> Allocation:
    """The allocation with a port for each slot, from 20000 on."""
    slots = (replace(slot, port=20_000 + n) for n, slot in enumerate(allocation.slots))
    return replace(allocation, slots=tuple(slots))


def config_of(host: Host, **given: Any) -> TrainConfig:
    job = job_of(**given)
    strategy = load_strategy(job.strategy)
    allocation = allocate(host, job.gpus, job.device, strategy.process_per)
    return make_config(job, strategy, allocation, FOLDER, {})


def threads_of(host: Host, environ: Mapping[str, str] | None = None, **given: Any) -> int:
    job = job_of(**given)
    return threads_for(job, allocate(host, job.gpus, job.device), environ or {})


def gpu_host(*indices: int) -> Host:
    return Host(name="here", cores=16, gpus=tuple(GPUS[index] for index in indices))


@pytest.mark.parametrize("rank", range(3))
def test_every_rank_has_torchruns_variables(rank: int) -> None:
    torchrun = {
        "RANK": f"{rank}",
        "LOCAL_RANK": f"{rank}",
        "ROLE_RANK": f"{rank}",
        "GROUP_RANK": "0",
        "WORLD_SIZE": "3",
        "LOCAL_WORLD_SIZE": "3",
        "ROLE_WORLD_SIZE": "3",
        "GROUP_WORLD_SIZE": "1",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": "20000",
        "TORCHELASTIC_RUN_ID": "first",
        "TORCHELASTIC_RESTART_COUNT": "0",
        "TORCHELASTIC_MAX_RESTARTS": "0",
    }
    assert plans_of(environ={"RANK": "9"}, gpus=3)[rank].env.items() >= torchrun.items()


@pytest.mark.parametrize(
    ("indices", "devices"), [((0, 1, 2, 3), "0,1,2"), ((3, 1, 0), "3,1,0"), ((2, 3, 0, 1), "2,3,0")]
)
def test_every_rank_sees_all_gpus_of_the_job(indices: tuple[int, ...], devices: str) -> None:
    seen = [plan.env["CUDA_VISIBLE_DEVICES"] for plan in plans_of(gpu_host(*indices), gpus=3)]
    assert seen == [devices] * 3


def test_the_local_rank_indexes_the_visible_gpus() -> None:
    for plan in plans_of(gpu_host(3, 1, 0), gpus=3):
        devices = plan.env["CUDA_VISIBLE_DEVICES"].split(",")
        assert plan.slot.devices == (GPUS[int(devices[int(plan.env["LOCAL_RANK"])])],)


def test_gpus_are_counted_as_nvml_counts_them() -> None:
    assert plans_of(gpu_host(0), gpus=1)[0].env["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"


def test_cpu_workers_see_no_gpu() -> None:
    assert plans_of(gpu_host(0, 1), device="cpu")[0].env["CUDA_VISIBLE_DEVICES"] == ""


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("OMP_NUM_THREADS", "3"),
        ("GLOO_SOCKET_IFNAME", "eth0"),
        ("NCCL_SOCKET_IFNAME", "eth0"),
        ("MALLOC_TRIM_THRESHOLD_", "1"),
        ("MALLOC_MMAP_THRESHOLD_", "1"),
        ("PYTHONUNBUFFERED", ""),
    ],
)
def test_what_the_user_set_stands(name: str, value: str) -> None:
    assert plans_of(environ={name: value})[1].env[name] == value


def test_a_worker_has_its_part_of_the_cores() -> None:
    assert plans_of(gpus=4)[0].env["OMP_NUM_THREADS"] == "4"


@pytest.mark.parametrize(
    ("given", "threads"),
    [
        ({"model": "softmax", "batch_size": 100}, 1),
        ({"model": "lenet", "batch_size": 10_000}, 8),
        ({"model": "lenet", "batch_size": 10_000, "gpus": 32}, 1),
    ],
)
def test_cpu_workers_use_the_threads_that_pay(given: dict[str, Any], threads: int) -> None:
    assert threads_of(CPUS, **given) == threads


def test_a_gpu_worker_may_use_all_its_cores() -> None:
    assert threads_of(gpu_host(0, 1), model="softmax", batch_size=2) == 8


@pytest.mark.parametrize(("setting", "threads"), [("5", 5), ("5,2", 5), ("0", 8), ("many", 8)])
def test_a_sensible_number_of_threads_from_the_user_stands(setting: str, threads: int) -> None:
    environ = {"OMP_NUM_THREADS": setting}
    assert threads_of(CPUS, environ, model="softmax", batch_size=2) == threads


@pytest.mark.parametrize(
    ("script", "argv"),
    [
        (["train.py", "-x"], (sys.executable, "train.py", "-x")),
        (["./train", "a.py"], ("./train", "a.py")),
    ],
)
def test_a_script_runs_as_it_is_and_python_files_with_python(
    script: list[str], argv: tuple[str, ...]
) -> None:
    assert [plan.argv for plan in plans_of(script=script)] == [argv, argv]


def test_a_script_keeps_the_users_python_path() -> None:
    assert "PYTHONPATH" not in plans_of(script=["train.py"], environ={"PYTHONPATH": "mine"})[0].env


def test_the_built_in_worker_is_found_before_the_users_modules() -> None:
    plan = plans_of(environ={"PYTHONPATH": "mine"})[0]
    root = Path(strategies.__file__).parents[1]
    assert (plan.env["PYTHONPATH"], plan.env["PYTHONSAFEPATH"]) == (f"{root}:mine", "1")


def test_the_built_in_worker_reads_the_runs_configuration() -> None:
    assert plans_of()[0].argv[-1] == str(FOLDER.config)


def test_every_rank_has_files_of_its_own_in_the_run_folder() -> None:
    paths = [p for plan in plans_of() for p in (plan.log_path, plan.events_path, plan.result_path)]
    assert len(set(paths)) == 6
    assert all(path.is_relative_to(FOLDER.path) for path in paths)


def test_a_worker_is_told_where_its_events_and_result_go() -> None:
    for plan in plans_of():
        told = {"TROIKA_EVENTS": str(plan.events_path), "TROIKA_RESULT": str(plan.result_path)}
        assert plan.env.items() >= told.items()


def test_one_process_has_all_devices_under_mirrored() -> None:
    plans = plans_of(gpu_host(3, 1, 0), strategy="mirrored", gpus=3)
    assert [plan.env["CUDA_VISIBLE_DEVICES"] for plan in plans] == ["3,1,0"]
    assert plans[0].env["WORLD_SIZE"] == "1"
    assert config_of(gpu_host(3, 1, 0), strategy="mirrored", gpus=3).devices == 3


def test_every_rank_has_horovods_variables() -> None:
    for rank, plan in enumerate(plans_of(strategy="horovod", gpus=3)):
        place = {"HOROVOD_RANK": f"{rank}", "HOROVOD_SIZE": "3", "HOROVOD_LOCAL_SIZE": "3"}
        store = {"HOROVOD_GLOO_RENDEZVOUS_ADDR": "127.0.0.1"}
        store["HOROVOD_GLOO_RENDEZVOUS_PORT"] = plan.env["MASTER_PORT"]
        assert plan.env.items() >= (place | store).items()


@pytest.mark.parametrize(("host", "graphs"), [(CPUS, False), (gpu_host(0, 1), True)])
def test_cuda_graphs_are_for_gpus(host: Host, graphs: bool) -> None:
    assert config_of(host).cuda_graphs is graphs


@pytest.mark.parametrize(("gpus", "oversubscribed"), [(16, False), (17, True)])
def test_more_workers_than_cores_are_oversubscribed(gpus: int, oversubscribed: bool) -> None:
    assert config_of(CPUS, gpus=gpus).oversubscribed is oversubscribed


def test_an_exchange_that_the_devices_cannot_do_is_refused_with_its_origin() -> None:
    flags = {
        "strategy": Given("mirrored", "--strategy"),
        "exchange": Given("nccl", "TROIKA_EXCHANGE"),
    }
    strategy = load_strategy("mirrored")
    job = resolve(
        flags, default_gpus=2, samples=60_000, checkpoint=None, exchanges=strategy.exchanges
    )
    with pytest.raises(UserError, match=r"exchange nccl \(TROIKA_EXCHANGE\): needs GPUs"):
        choose_exchange(job, strategy, allocate(CPUS, 2, "cpu", "host"))
