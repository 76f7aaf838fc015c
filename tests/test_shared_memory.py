"""The mean over ranks through shared memory, between real processes."""

from __future__ import annotations

import os
import pickle
import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from strategies.shared_memory import unsupported_reason
from tests.mean_worker import ROUNDS, SIZES, Seen, gradients

ROOT = Path(__file__).parents[1]

pytestmark = pytest.mark.skipif(
    platform.machine() not in ("x86_64", "AMD64"), reason="the exchange is for x86-64"
)


def run_ranks(folder: Path, world_size: int) -> list[Seen]:
    """What every rank of a job of tests.mean_worker saw."""
    command = [sys.executable, "-m", "tests.mean_worker", str(folder)]
    environ = os.environ | {"WORLD_SIZE": str(world_size)}
    workers = [
        subprocess.Popen(command, cwd=ROOT, env=environ | {"RANK": str(rank)})
        for rank in range(world_size)
    ]
    try:
        assert [worker.wait(timeout=60) for worker in workers] == [0] * world_size
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()
    return [pickle.loads((folder / str(rank)).read_bytes()) for rank in range(world_size)]


@pytest.fixture(scope="module", params=[2, 3])
def ranks(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[Seen]:
    """What each of 2 or 3 ranks saw."""
    return run_ranks(tmp_path_factory.mktemp("ranks"), request.param)


@pytest.mark.parametrize("size", SIZES)
def test_every_round_gives_the_mean_of_its_own_vectors(ranks: list[Seen], size: int) -> None:
    for turn in range(ROUNDS):
        vectors = [gradients(rank, size, turn) for rank in range(len(ranks))]
        mean = np.stack(vectors).mean(axis=0, dtype=np.float64)
        np.testing.assert_allclose(ranks[0]["means"][size, turn], mean, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("size", SIZES)
def test_all_ranks_get_the_same_bits(ranks: list[Seen], size: int) -> None:
    for turn in range(ROUNDS):
        assert len({seen["means"][size, turn].tobytes() for seen in ranks}) == 1


def test_the_memory_has_no_name_in_dev_shm(ranks: list[Seen]) -> None:
    assert [seen["named"] for seen in ranks] == [[] for _ in ranks]


def test_ranks_that_wait_in_vain_name_the_one_that_did_not_come(ranks: list[Seen]) -> None:
    late = len(ranks) - 1
    assert [seen["error"] for seen in ranks[:late]] == [
        f"rank {rank} waited 1 s for the gradients of rank {late} (exchange 1)"
        for rank in range(late)
    ]


def test_shared_memory_serves_cpu_workers_of_one_host() -> None:
    assert unsupported_reason(2, one_host=True, cuda=False) is None


@pytest.mark.parametrize(
    ("world_size", "one_host", "cuda", "reason"),
    [
        (1, True, False, "one worker has nobody to exchange with"),
        (2, True, True, "the gradients are on GPUs"),
        (2, False, False, "the workers are on several hosts"),
    ],
)
def test_other_workers_are_told_why_they_cannot_use_it(
    world_size: int, one_host: bool, cuda: bool, reason: str
) -> None:
    assert unsupported_reason(world_size, one_host=one_host, cuda=cuda) == reason


def test_a_processor_that_reorders_stores_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    reason = unsupported_reason(2, one_host=True, cuda=False)
    assert reason == "aarch64 may reorder stores to memory"
