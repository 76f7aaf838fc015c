"""A job that goes on after a failure: real workers, killed while they train."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from clusters import placement
from clusters.base import Allocation, ClusterError, ClusterSpec, Ended, Host, NoRoom
from clusters.local import LocalCluster
from launcher.attempt import Attempt, claimed
from launcher.errors import UserError
from launcher.folder import RunFolder
from launcher.job import Given, JobSpec, resolve
from launcher.output import Output
from launcher.prepare import Prepared, prepare
from launcher.restart import go_on, most_of, resumed
from launcher.results import WorkerResult
from launcher.supervise import Outcome
from strategies import STRATEGIES
from tests.command import Finished, finish, launch, start, train, wait_until
from tests.small_mnist import write_small_mnist

EPOCHS = 10
TRAINING = (
    *("--model", "mlp", "--recipe", "tuned", "--epochs", str(EPOCHS)),
    *("--gpus", "2", "--device", "cpu", "--no-baseline"),
)
HOSTS = (Host(name="a", cores=8, node="id-a"), Host(name="b", cores=8, node="id-b"))


def worker_pid(run: Path, rank: int, restarts: int = 0) -> int:
    """The process number of a worker, once its first event tells it."""
    again = f"-restart-{restarts}" if restarts else ""
    path = run / f"events/rank-{rank}{again}.jsonl"
    wait_until(lambda: path.exists() and "\n" in path.read_text(), f"the start of {path.name}")
    return int(json.loads(path.read_text().splitlines()[0])["pid"])


def kill_in_mid_training(run: Path, rank: int, restarts: int = 0) -> None:
    """Kills a worker in the epoch behind the first one of its attempt."""
    pid = worker_pid(run, rank, restarts)
    again = f"-restart-{restarts}" if restarts else ""
    # Written behind an epoch's checkpoint.
    wait_until((run / f"results/rank-0{again}.json").exists, "the first epoch's result")
    os.kill(pid, signal.SIGKILL)


def train_and_kill(folder: Path, *arguments: str, rank: int, kills: int = 1) -> Finished:
    process = start(folder, *arguments)
    for restarts in range(kills):
        kill_in_mid_training(folder / "run", rank, restarts)
    return finish(process, folder)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Enough for an epoch to take some time, little enough for a test to take few seconds."""
    return write_small_mnist(tmp_path_factory.mktemp("data") / "mnist", 5000, 500)


@pytest.fixture(scope="module")
def ddp(data: Path) -> tuple[str, ...]:
    return ("--strategy", "ddp", "--exchange", "gloo", "--data-dir", str(data), *TRAINING)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, ddp: tuple[str, ...]) -> Finished:
    return train(tmp_path_factory.mktemp("undisturbed"), *ddp)


def assert_same_training(one: Finished, other: Finished) -> None:
    """Bit for bit: every step's loss, weights, momentum and what the checkpoint says of itself."""
    assert one.losses == other.losses
    first, second = one.checkpoint, other.checkpoint
    assert first.header == second.header
    for a, b in ((first.weights, second.weights), (first.momentum, second.momentum)):
        assert {name: a[name].tobytes() for name in a} == {name: b[name].tobytes() for name in b}


@pytest.mark.parametrize("rank", [0, 1])
def test_after_a_kill_the_training_ends_with_the_bits_of_an_undisturbed_one(
    tmp_path: Path, ddp: tuple[str, ...], undisturbed: Finished, rank: int
) -> None:
    finished = train_and_kill(tmp_path, *ddp, "--max-restarts", "1", rank=rank)
    assert finished.code == 0, finished.stdout + finished.stderr
    assert_same_training(finished, undisturbed)
    assert f"rank {rank} failed first: killed by SIGKILL" in finished.stdout
    report = finished.report
    assert (report["status"], report["failure"]) == ("completed", None)
    assert [epoch["epoch"] for epoch in report["epochs"]] == list(range(1, EPOCHS + 1))
    (restart,) = report["restarts"]
    assert (restart["failure"]["rank"], restart["failure"]["end"]) == (rank, "killed by SIGKILL")
    assert (restart["workers_before"], restart["workers"]) == (2, 2)
    checkpoint = Path(restart["resumed_from"])
    assert checkpoint.parent == finished.folder / "checkpoints"
    assert checkpoint.exists()
    assert f"restart 1 of 1, from {checkpoint}\n" in finished.stdout
    assert restart["failure"]["log"] == str(finished.folder / f"logs/rank-{rank}.log")
    logs = {f"rank-{number}{again}.log" for number in (0, 1) for again in ("", "-restart-1")}
    assert {path.name for path in (finished.folder / "logs").iterdir()} == logs


@pytest.mark.parametrize("strategy", [name for name in STRATEGIES if name != "ddp"])
def test_the_other_strategies_go_on_too(tmp_path: Path, data: Path, strategy: str) -> None:
    job = ("--strategy", strategy, "--data-dir", str(data), *TRAINING)
    whole = train(tmp_path / "whole", *job)
    finished = train_and_kill(tmp_path / "killed", *job, "--max-restarts", "1", rank=0)
    assert finished.code == 0, finished.stdout + finished.stderr
    assert_same_training(finished, whole)
    assert len(finished.report["restarts"]) == 1


def test_a_failure_before_the_first_checkpoint_starts_from_the_beginning(
    tmp_path: Path, ddp: tuple[str, ...], undisturbed: Finished
) -> None:
    process = start(tmp_path, *ddp, "--max-restarts", "1")
    os.kill(worker_pid(tmp_path / "run", 1), signal.SIGKILL)
    finished = finish(process, tmp_path)
    assert finished.code == 0, finished.stdout + finished.stderr
    assert "restart 1 of 1, from the beginning\n" in finished.stdout
    assert finished.report["restarts"][0]["resumed_from"] is None
    assert_same_training(finished, undisturbed)


def test_a_failure_while_the_scaling_is_measured_trains_nothing_again(
    tmp_path: Path, ddp: tuple[str, ...], undisturbed: Finished
) -> None:
    job = [word for word in ddp if word != "--no-baseline"]
    process = start(tmp_path, *job, "--max-restarts", "1")
    events = tmp_path / "run/events/rank-0.jsonl"
    wait_until(lambda: events.exists() and '"measuring"' in events.read_text(), "the measuring")
    os.kill(worker_pid(tmp_path / "run", 1), signal.SIGKILL)
    finished = finish(process, tmp_path)
    assert finished.code == 0, finished.stdout + finished.stderr
    assert_same_training(finished, undisturbed)
    report = finished.report
    assert len(report["restarts"]) == 1
    assert [epoch["epoch"] for epoch in report["epochs"]] == list(range(1, EPOCHS + 1))
    assert report["scaling"]
    assert report["time_to_first_step_s"] > 0
    assert Path(report["checkpoint"]).is_file()


def test_without_max_restarts_the_first_failure_is_the_end(
    tmp_path: Path, ddp: tuple[str, ...], undisturbed: Finished
) -> None:
    finished = train_and_kill(tmp_path, *ddp, rank=1)
    assert finished.code == 1
    assert finished.stdout.count("rank 1 failed first: killed by SIGKILL") == 1
    assert "restart 1" not in finished.stdout
    assert f"go on with --resume {finished.folder}" in finished.stdout
    report = finished.report
    assert (report["status"], report["restarts"]) == ("failed", [])
    assert report["epochs"]
    done = len(finished.losses)
    assert 0 < done < len(undisturbed.losses)
    assert finished.losses == undisturbed.losses[:done]


def test_one_failure_more_than_max_restarts_is_the_end(
    tmp_path: Path, ddp: tuple[str, ...]
) -> None:
    finished = train_and_kill(tmp_path, *ddp, "--max-restarts", "1", rank=1, kills=2)
    assert finished.code == 1
    assert finished.stdout.count("rank 1 failed first: killed by SIGKILL") == 2
    assert "restart 2" not in finished.stdout
    report = finished.report
    assert (report["status"], len(report["restarts"])) == ("failed", 1)
    assert report["failure"]["log"] == str(finished.folder / "logs/rank-1-restart-1.log")
    assert [epoch["epoch"] for epoch in report["epochs"]] == list(
        range(1, len(report["epochs"]) + 1)
    )
    assert len(report["epochs"]) >= 2


def test_a_restarted_job_may_be_restarted_again(
    tmp_path: Path, ddp: tuple[str, ...], undisturbed: Finished
) -> None:
    finished = train_and_kill(tmp_path, *ddp, "--max-restarts", "2", rank=1, kills=2)
    assert finished.code == 0, finished.stdout + finished.stderr
    assert_same_training(finished, undisturbed)
    assert len(finished.report["restarts"]) == 2


def script(folder: Path, text: str) -> str:
    folder.mkdir(exist_ok=True)
    (folder / "job.py").write_text(text)
    return "job.py"


def test_a_script_is_told_which_restart_it_is_and_of_how_many(tmp_path: Path) -> None:
    job = script(
        tmp_path,
        "import os\n"
        "count = int(os.environ['TORCHELASTIC_RESTART_COUNT'])\n"
        "print(count, 'of', os.environ['TORCHELASTIC_MAX_RESTARTS'])\n"
        "if count < 2 and os.environ['RANK'] == '1':\n"
        "    raise ValueError('not yet')\n",
    )
    finished = launch(tmp_path, "-n", "2", "--device", "cpu", "--max-restarts", "3", job)
    assert finished.code == 0, finished.stdout + finished.stderr
    names = ("rank-1", "rank-1-restart-1", "rank-1-restart-2")
    logs = [(finished.folder / f"logs/{name}.log").read_text() for name in names]
    assert [log.splitlines()[0] for log in logs] == ["0 of 3", "1 of 3", "2 of 3"]
    assert "restart 2 of 3\n" in finished.stdout
    restarts = finished.report["restarts"]
    assert ["not yet" in restart["failure"]["traceback"] for restart in restarts] == [True, True]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_never_answered_by_a_restart(tmp_path: Path, number: signal.Signals) -> None:
    job = script(
        tmp_path,
        "import os, time\nopen('ready-' + os.environ['RANK'], 'w').close()\ntime.sleep(600)\n",
    )
    process: subprocess.Popen[str] = start(
        tmp_path, "-n", "2", "--device", "cpu", "--max-restarts", "3", job
    )
    wait_until(lambda: all((tmp_path / f"ready-{n}").exists() for n in (0, 1)), "the workers")
    process.send_signal(number)
    finished = finish(process, tmp_path)
    assert finished.code == 128 + number
    assert "restart 1" not in finished.stdout
    assert (finished.report["status"], finished.report["restarts"]) == ("interrupted", [])


def job_of(**given: Any) -> JobSpec:
    flags = {name: Given(value, f"--{name}") for name, value in given.items()}
    return resolve(flags, default_gpus=4, samples=60_000, checkpoint=None)


class Shrunken(LocalCluster):
    """Two hosts with room for so many workers as ``room`` says, by their number."""

    def __init__(self, room: Mapping[int, int]) -> None:
        super().__init__(ClusterSpec())
        self._room = room

    def probe(self) -> tuple[Host, ...]:
        return HOSTS

    def allocate(
        self, hosts: tuple[Host, ...], workers: int, device: str, process_per: str
    ) -> Allocation:
        if workers > self._room[len(hosts)]:
            raise NoRoom(f"room for {self._room[len(hosts)]} on {len(hosts)} hosts")
        return super().allocate(hosts, workers, device, process_per)


class WholeNodes(LocalCluster):
    """Nodes that are used with four workers, or not at all."""

    def allocate(
        self, hosts: tuple[Host, ...], workers: int, device: str, process_per: str
    ) -> Allocation:
        spec = ClusterSpec(kind="ray", gpus_per_node=4)
        return placement.allocate(hosts, spec, workers, device, process_per)


class Disagreeing(Shrunken):
    """Its hosts are claimed, and then cannot say what they have installed."""

    remote = True

    def __init__(self) -> None:
        super().__init__({2: 4})
        self.held = False

    def claim(self, allocation: Allocation) -> Allocation:
        self.held = True
        return super().claim(allocation)

    def ask(self, module: str, *arguments: str) -> dict[str, str]:
        raise ClusterError("b (10.0.0.2): has no Python")

    def release(self) -> None:
        self.held = False


@pytest.mark.parametrize(
    ("room", "least", "workers"), [(4, 4, 4), (9, 1, 4), (3, 2, 3), (2, 2, 2), (1, 1, 1)]
)
def test_as_many_workers_as_there_is_room_for_go_on(room: int, least: int, workers: int) -> None:
    allocation = most_of(Shrunken({2: room}), HOSTS, job_of(), least, "device")
    assert allocation.workers == workers


@pytest.mark.parametrize(("room", "least"), [(3, 4), (1, 2), (0, 1)])
def test_fewer_workers_than_were_said_do_not_go_on(room: int, least: int) -> None:
    with pytest.raises(NoRoom, match=f"room for {room} on 2 hosts"):
        most_of(Shrunken({2: room}), HOSTS, job_of(), least, "device")


@pytest.mark.parametrize(("nodes", "workers"), [(3, 8), (2, 8), (1, 4)])
def test_numbers_of_workers_that_do_not_fill_nodes_are_passed_over(
    nodes: int, workers: int
) -> None:
    room = {"CPU": 4.0}
    hosts = tuple(Host(name=f"n{n}", cores=4, total=room, free=room) for n in range(nodes))
    allocation = most_of(WholeNodes(), hosts, job_of(gpus=8), 2, "device")
    assert allocation.workers == workers


def test_a_job_goes_on_from_its_last_checkpoint_with_its_batch(tmp_path: Path) -> None:
    checkpoints = tmp_path / "checkpoints"
    checkpoints.mkdir()
    for step in (600, 1200):
        (checkpoints / f"step-{step:08d}.safetensors").touch()
    asked = job_of(batch_size=90, max_restarts=2, min_gpus=1)
    job = resumed(asked, RunFolder(path=tmp_path, restarts=2), 3)
    assert (job.gpus, job.batch_size, job.lr) == (3, 90, asked.lr)
    assert job.origin("gpus") == "gpus 3 (restart 2, of 4 by what this machine has)"
    newest = checkpoints / "step-00001200.safetensors"
    assert job.origin("resume") == f"resume {newest} (restart 2)"


def test_a_job_without_a_checkpoint_starts_where_it_was_to_start(tmp_path: Path) -> None:
    asked = job_of(resume="elsewhere")
    assert resumed(asked, RunFolder(path=tmp_path, restarts=1), 4) == asked


def test_a_script_looks_for_its_checkpoints_itself(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints/step-00000600.safetensors").touch()
    job = resumed(job_of(script=["train.py"]), RunFolder(path=tmp_path, restarts=1), 4)
    assert job.resume is None


class Failed:
    """A job of four workers on ``Shrunken`` hosts of which the last has failed."""

    def __init__(self, folder: Path, room: Mapping[int, int], **settings: Any) -> None:
        self.text = io.StringIO()
        self.output = Output(people=Console(file=self.text), as_json=False, quiet=False)
        given = {"gpus": 4, "device": "cpu", "max_restarts": 1, **settings}
        flags = {name: Given(value, f"--{name}") for name, value in given.items()}
        prepared = prepare(flags, folder / "run", self.output)
        self.prepared = replace(prepared, cluster=Shrunken(room))

    def go_on(self, *, lost_host: bool = False) -> tuple[Attempt, Prepared | None]:
        plan = self.prepared.plans[-1]
        plan = replace(plan, slot=replace(plan.slot, node="id-b"))
        ended = Ended(code=-9, time=0.0, pid=7, lost_host=lost_host)
        failure = WorkerResult(plan=plan, ended=ended, stopped_by_us=False)
        outcome = Outcome(results=(failure,), failure=failure, signal=None, unkillable=())
        attempt = Attempt(prepared=self.prepared, outcome=outcome, metrics=None)
        return go_on(attempt, self.output)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Minutes of waiting for a cluster become moments."""
    monkeypatch.setattr("launcher.restart._PATIENCE_S", 0.3)
    monkeypatch.setattr("launcher.restart._FEWER_AFTER_S", 0.1)
    monkeypatch.setattr("launcher.restart._LOOK_S", 0.05)


@pytest.mark.usefixtures("impatient")
def test_fewer_workers_go_on_with_the_same_batch_where_that_was_allowed(tmp_path: Path) -> None:
    failed = Failed(tmp_path, {2: 3}, min_gpus=2)
    _, following = failed.go_on()
    assert following is not None
    assert (following.job.gpus, len(following.plans)) == (3, 3)
    assert following.config.batch_size == failed.prepared.config.batch_size
    assert "with 3 of 4 workers and the same global batch" in failed.text.getvalue()
    assert [plan.slot.port > 0 for plan in following.plans] == [True] * 3


@pytest.mark.usefixtures("impatient")
def test_fewer_workers_do_not_go_on_where_nobody_allowed_it(tmp_path: Path) -> None:
    failed = Failed(tmp_path, {2: 3})
    _, following = failed.go_on()
    assert following is None
    assert failed.text.getvalue().endswith("no restart, after 0 s: room for 3 on 2 hosts\n")


@pytest.mark.usefixtures("impatient")
def test_a_host_that_is_lost_is_not_asked_again(tmp_path: Path) -> None:
    failed = Failed(tmp_path, {2: 4, 1: 2}, min_gpus=1)
    _, following = failed.go_on(lost_host=True)
    assert following is not None
    assert following.job.gpus == 2


def test_hosts_that_do_not_agree_are_given_back(tmp_path: Path) -> None:
    """A restart tries again, and would find no room beside what it holds already."""
    cluster = Disagreeing()
    prepared = replace(Failed(tmp_path, {2: 4}).prepared, cluster=cluster)
    with pytest.raises(UserError, match="has no Python"):
        claimed(prepared)
    assert not cluster.held


def test_a_signal_while_a_restart_waits_for_room_is_the_jobs_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("launcher.restart.time.sleep", lambda _: os.kill(os.getpid(), 15))
    attempt, following = Failed(tmp_path, {2: 0}).go_on()
    assert following is None
    assert (attempt.outcome.status, attempt.outcome.exit_code) == ("interrupted", 128 + 15)
