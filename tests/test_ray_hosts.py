"""Three hosts with addresses of their own: the strategies train over the network between them."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from strategies.horovod_build import horovod_ready
from tests import hosts as network
from tests.command import COMMAND, Finished, launch, wait_until
from tests.raylets import Node, Raylets, raylets

pytestmark = [
    pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed"),
    pytest.mark.skipif(network.unsupported() is not None, reason=str(network.unsupported())),
    pytest.mark.slow,
]

TRAINING = ("--model", "mlp", "--steps", "40", "--no-baseline")
NO_HOROVOD = horovod_ready()


@pytest.fixture(scope="module")
def hosts() -> Iterator[list[network.Host]]:
    with network.hosts(3) as three:
        yield three


@pytest.fixture(scope="module")
def cluster(hosts: list[network.Host]) -> Iterator[Raylets]:
    """A node of one CPU on each host."""
    with raylets(*[Node(cpus=1)] * 3, hosts=hosts) as started:
        yield started


@pytest.mark.parametrize("strategy", ["ddp", "horovod", "mirrored"])
def test_three_hosts_have_the_loss_curve_of_one(
    hosts: list[network.Host], cluster: Raylets, tmp_path: Path, strategy: str
) -> None:
    if strategy == "horovod" and NO_HOROVOD:
        pytest.skip(NO_HOROVOD)
    one = launch(tmp_path / "one", *TRAINING, "--gpus", "1")
    run = tmp_path / "three/run"
    done = hosts[0].run(
        [
            *(*COMMAND, "--out", str(run), "--address", cluster.address, "--gpus", "3"),
            *("--strategy", strategy, *TRAINING),
        ],
        cwd=tmp_path,
        env={**os.environ, **cluster.environ},
        timeout=180,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    three = Finished(done.returncode, done.stdout, done.stderr, run)
    assert three.losses == pytest.approx(one.losses, rel=1e-4)
    assert three.report["hosts"] == ["node-0", "node-1", "node-2"]
    assert three.report["conditions"].startswith("3 ")


def test_a_host_whose_cable_is_cut_is_a_failure_that_is_told(tmp_path: Path) -> None:
    with (
        network.hosts(2) as two,
        raylets(Node(cpus=1), Node(cpus=1), hosts=two) as cluster,
    ):
        run = tmp_path / "run"
        process = two[0].popen(
            [
                *(*COMMAND, "--out", str(run), "--address", cluster.address, "--gpus", "2"),
                *("--model", "mlp", "--epochs", "400"),
            ],
            cwd=tmp_path,
            env={**os.environ, **cluster.environ},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        events = run / "events/rank-0.jsonl"
        wait_until(
            lambda: events.exists() and '"event": "epoch"' in events.read_text(),
            "an epoch",
            timeout_s=120,
        )
        two[1].cut()
        stdout, stderr = process.communicate(timeout=120)
    assert process.returncode == 1, stdout + stderr
    assert f"its node node-1 ({two[1].address}) is lost" in stdout
