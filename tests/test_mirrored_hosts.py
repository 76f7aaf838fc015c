"""``mirrored`` on several hosts: a process each, all on this one here, over real sockets."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from strategies.base import EVENTS_VARIABLE, RESULT_VARIABLE, Peer, Rank, TrainConfig, TrainMetrics
from strategies.mirrored import Mirrored, resolve_exchange_of_hosts
from strategies.mnist.data import load
from strategies.mnist.models import MODELS
from tests.small_mnist import write_small_mnist
from tests.test_models import forward
from tests.test_tf_engine import ROOT, TEST, TRAIN, Outcome, bits, rounds, torch_losses
from tests.test_tf_engine import config as one_host

HOST = "127.0.0.1"
PROCESSES = [2, 3]
PATIENCE_S = 60.0


def config(devices: int, data: Path) -> TrainConfig:
    return replace(one_host(devices, data), exchange="ring")


def jobs(base: TrainConfig, folder: Path) -> dict[str, TrainConfig]:
    """By name, in the order in which they run."""
    softmax, mlp = (replace(base, model=name, epochs=1) for name in ("softmax", "mlp"))
    found = {
        "1-softmax": softmax,
        "1-mlp": replace(mlp, epochs=2),
        "1-lenet": replace(base, model="lenet", epochs=1),
        "1-uneven": replace(softmax, batch_size=50),
        "1-tiny": replace(softmax, batch_size=2, steps=9),
        "1-accumulated": replace(mlp, accumulate=3),
        "1-bf16": replace(mlp, epochs=2, precision="bf16"),
        "1-still": replace(softmax, momentum=0.0),
        "1-scaling": replace(mlp, baseline=True, batch_size=9),
        "1-half": replace(mlp, steps=3),
        "2-resumed": replace(
            mlp, epochs=2, resume=str(folder / "1-half" / "step-00000003.safetensors")
        ),
    }
    return {name: replace(job, checkpoints=str(folder / name)) for name, job in found.items()}


@pytest.fixture(scope="module", params=PROCESSES)
def outcomes(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Outcome]:
    """What came of all the jobs in so many processes; in two, each has two devices."""
    folder = tmp_path_factory.mktemp("jobs")
    data = write_small_mnist(tmp_path_factory.mktemp("data") / "mnist", TRAIN, TEST)
    configs = jobs(config(2 if request.param == 2 else 1, data), folder)
    for name, job in configs.items():
        (folder / f"{name}.json").write_text(job.to_json())
    command = [sys.executable, "-m", "tests.group_worker", str(folder)]
    with processes(command, folder, request.param) as started:
        assert ends(started) == [0] * request.param, logs(folder)
    found = {}
    for name, job in configs.items():
        values = json.loads((folder / f"{name}.out").read_text())
        metrics = TrainMetrics.from_dict(values["metrics"])
        found[name] = Outcome(config=job, metrics=metrics, kept=values["kept"])
    return found


@contextmanager
def processes(
    command: list[str], folder: Path, count: int, **variables: str
) -> Iterator[list[subprocess.Popen[bytes]]]:
    """``command`` as ``count`` processes of one job; their output goes to FOLDER/<rank>.log."""
    peers = tuple(Peer(host=r, address=HOST, port=p, interface="lo") for r, p in free_ports(count))
    with ExitStack() as stack:
        started = []
        for number in range(count):
            log = stack.enter_context((folder / f"{number}.log").open("wb"))
            env = environment(number, peers, folder) | variables
            process = subprocess.Popen(command, cwd=ROOT, env=env, stdout=log, stderr=log)
            stack.enter_context(process)
            stack.callback(process.kill)
            started.append(process)
        yield started


def free_ports(count: int) -> Iterator[tuple[int, int]]:
    """By number; all are held until all are known, so that no two are the same."""
    with ExitStack() as stack:
        servers = [stack.enter_context(socket.create_server((HOST, 0))) for _ in range(count)]
        ports = [server.getsockname()[1] for server in servers]
    return iter(enumerate(ports))


def environment(number: int, peers: tuple[Peer, ...], folder: Path) -> dict[str, str]:
    rank = Rank(
        rank=number,
        local_rank=0,
        world_size=len(peers),
        local_world_size=1,
        master_addr=HOST,
        master_port=peers[0].port,
    )
    return {
        **os.environ,
        "RANK": str(number),
        "LOCAL_RANK": "0",
        "WORLD_SIZE": str(len(peers)),
        "LOCAL_WORLD_SIZE": "1",
        "MASTER_ADDR": HOST,
        "MASTER_PORT": str(peers[0].port),
        EVENTS_VARIABLE: str(folder / f"{number}.jsonl"),
        RESULT_VARIABLE: str(folder / f"{number}.result"),
        **Mirrored().environ(rank, peers, "cpu"),
    }


def ends(started: list[subprocess.Popen[bytes]]) -> list[int]:
    return [process.wait(5 * PATIENCE_S) for process in started]


def logs(folder: Path) -> str:
    return "\n".join(path.read_text() for path in sorted(folder.glob("*.log")))


def work(folder: Path, job: TrainConfig) -> list[str]:
    """The command of a built-in worker that trains ``job``."""
    file = folder / "job.json"
    file.write_text(replace(job, checkpoints="checkpoints").to_json())
    return [sys.executable, "-m", "strategies.worker", str(file)]


def wait_for(what: Callable[[], bool], folder: Path) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not what():
        assert time.monotonic() < deadline, logs(folder)
        time.sleep(0.05)


def trains(folder: Path, number: int) -> bool:
    events = folder / f"{number}.jsonl"
    return events.exists() and '"first_step"' in events.read_text()


@pytest.mark.parametrize(
    "name",
    [f"1-{name}" for name in ("softmax", "mlp", "lenet", "uneven", "tiny", "accumulated", "still")],
)
def test_every_step_has_the_loss_that_pytorch_has_in_one_process(
    outcomes: dict[str, Outcome], name: str
) -> None:
    outcome = outcomes[name]
    np.testing.assert_allclose(outcome.metrics.losses, torch_losses(outcome.config), rtol=1e-5)


def test_a_job_that_several_processes_resume_has_the_losses_of_an_unbroken_one(
    outcomes: dict[str, Outcome],
) -> None:
    whole, half, resumed = (outcomes[name] for name in ("1-mlp", "1-half", "2-resumed"))
    assert half.metrics.losses + resumed.metrics.losses == whole.metrics.losses
    assert bits(resumed.saved.momentum) == bits(whole.saved.momentum)


def test_bf16_is_near_but_not_the_same(outcomes: dict[str, Outcome]) -> None:
    exact, rough = outcomes["1-mlp"].metrics.losses, outcomes["1-bf16"].metrics.losses
    assert exact != rough
    np.testing.assert_allclose(rough, exact, rtol=0.05)


@pytest.mark.parametrize("name", ["softmax", "mlp", "lenet"])
def test_every_test_image_counts_once_over_all_processes(
    outcomes: dict[str, Outcome], name: str
) -> None:
    outcome = outcomes[f"1-{name}"]
    model, test = MODELS[name], load(Path(str(outcome.config.data))).test
    pixels = test.images.reshape(-1, 784).astype(np.float32) * model.scale + model.shift
    logits = forward(model, outcome.saved.weights, pixels).astype(np.float64)
    right = logits[np.arange(TEST), test.labels]
    last = outcome.metrics.epochs[-1]
    expected = np.mean(np.log(np.exp(logits).sum(1)) - right)
    assert last.test_loss == pytest.approx(expected, rel=1e-5)
    assert last.test_accuracy == (logits.argmax(1) == test.labels).sum() / TEST


def test_scaling_is_measured_for_every_process_and_changes_nothing(
    outcomes: dict[str, Outcome], request: pytest.FixtureRequest
) -> None:
    count = request.node.callspec.params["outcomes"]
    outcome = outcomes["1-scaling"]
    share = -(-outcome.config.batch_size // count)
    assert [samples.batch for samples in outcome.metrics.scaling] == [share, 4 * share]
    for samples in outcome.metrics.scaling:
        assert rounds(samples) == {7}
        assert {len(values) for values in samples.apart} == {count}
        assert min(*samples.alone, *samples.together, *map(min, samples.apart)) > 0
    assert outcome.kept


def test_the_report_says_that_a_process_is_one_device_with_the_threads_of_all(
    outcomes: dict[str, Outcome],
) -> None:
    metrics, job = outcomes["1-mlp"].metrics, outcomes["1-mlp"].config
    assert metrics.exchange == "ring over gRPC"
    assert metrics.threads == job.devices * job.threads


def test_workers_meet_past_a_proxy_and_all_leave_without_an_error(tmp_path: Path) -> None:
    data = write_small_mnist(tmp_path / "mnist", TRAIN, TEST)
    job = replace(config(1, data), model="softmax", epochs=1)
    nowhere = f"http://{HOST}:9"
    with processes(work(tmp_path, job), tmp_path, 2, http_proxy=nowhere) as started:
        assert ends(started) == [0, 0], logs(tmp_path)
    result = json.loads((tmp_path / "0.result").read_text())
    metrics = TrainMetrics.from_dict(result)
    np.testing.assert_allclose(metrics.losses, torch_losses(job), rtol=1e-5)
    assert not (tmp_path / "1.result").exists()


@pytest.mark.parametrize("victim", [0, 1])
def test_a_worker_whose_peer_is_killed_says_so_and_fails(tmp_path: Path, victim: int) -> None:
    data = write_small_mnist(tmp_path / "mnist", TRAIN, TEST)
    endless = replace(config(1, data), model="softmax", epochs=100_000)
    with processes(work(tmp_path, endless), tmp_path, 2) as started:
        wait_for(lambda: trains(tmp_path, 0) and trains(tmp_path, 1), tmp_path)
        started[victim].kill()
        other = 1 - victim
        assert started[other].wait(PATIENCE_S) == 1
    lines = (tmp_path / f"{other}.log").read_text().splitlines()
    message = "ConnectionError: lost another process of the job: "
    assert [line for line in lines if line.startswith(message)], logs(tmp_path)


def test_a_worker_that_is_asked_to_end_ends(tmp_path: Path) -> None:
    data = write_small_mnist(tmp_path / "mnist", TRAIN, TEST)
    endless = replace(config(1, data), model="softmax", epochs=100_000)
    with processes(work(tmp_path, endless), tmp_path, 2) as started:
        wait_for(lambda: trains(tmp_path, 0) and trains(tmp_path, 1), tmp_path)
        for process in started:
            process.terminate()
        assert -signal.SIGTERM in ends(started)


def test_a_worker_without_peers_does_not_look_for_those_in_a_users_variable(
    tmp_path: Path,
) -> None:
    data = write_small_mnist(tmp_path / "mnist", TRAIN, TEST)
    job = replace(one_host(2, data), model="softmax", epochs=1)
    cluster = {"worker": [f"{HOST}:9", f"{HOST}:13"]}
    theirs = json.dumps({"cluster": cluster, "task": {"type": "worker", "index": 1}})
    with processes(work(tmp_path, job), tmp_path, 1, TF_CONFIG=theirs) as started:
        assert ends(started) == [0], logs(tmp_path)


def test_tf_config_lists_the_peers_in_rank_order() -> None:
    addresses = ("10.0.0.2", "fd00::3")
    peers = tuple(
        Peer(host=number, address=address, port=29_500 + number, interface="eth0")
        for number, address in enumerate(addresses)
    )
    rank = Rank(
        rank=1,
        local_rank=0,
        world_size=2,
        local_world_size=1,
        master_addr=addresses[0],
        master_port=29_500,
    )
    found = Mirrored().environ(rank, peers, "cuda")
    assert json.loads(found["TF_CONFIG"]) == {
        "cluster": {"worker": ["10.0.0.2:29500", "[fd00::3]:29501"]},
        "task": {"type": "worker", "index": 1},
    }
    assert found["no_grpc_proxy"] == "10.0.0.2,fd00::3"
    alone = Mirrored().environ(replace(rank, rank=0, world_size=1), peers[:1], "cuda")
    assert not alone.keys() & {"TF_CONFIG", "no_grpc_proxy"}


@pytest.mark.parametrize(
    ("asked", "device", "expected"),
    [
        ("auto", "cuda", "nccl"),
        ("auto", "cpu", "ring"),
        ("ring", "cuda", "ring"),
        ("ring", "cpu", "ring"),
        ("nccl", "cuda", "nccl"),
    ],
)
def test_the_exchange_between_hosts_is_nccl_on_gpus_and_a_ring_on_cpus(
    asked: str, device: str, expected: str
) -> None:
    chosen = Mirrored().choose_exchange(asked, device=device, devices=3, linked=False, hosts=2)
    assert chosen == expected


@pytest.mark.parametrize("asked", ["hierarchical", "one-device"])
def test_an_exchange_of_one_hosts_devices_is_refused_between_hosts(asked: str) -> None:
    with pytest.raises(ValueError, match=r"devices of one host, this job has 2; .* ring or nccl$"):
        resolve_exchange_of_hosts(asked, "cuda", 2)


def test_nccl_between_hosts_without_gpus_is_refused() -> None:
    with pytest.raises(ValueError, match="this job has the CPUs of 2 hosts; use auto or ring"):
        resolve_exchange_of_hosts("nccl", "cpu", 2)


def test_a_ring_on_one_host_is_refused() -> None:
    with pytest.raises(ValueError, match="joins several hosts, this job has one; use auto"):
        Mirrored().choose_exchange("ring", device="cpu", devices=2, linked=False, hosts=1)
