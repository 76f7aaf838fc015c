"""Workers in Ray actors: a real local Ray, and whoever of all its processes dies."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

import psutil
import pytest

from clusters import load_cluster
from clusters.base import Cluster, ClusterError, ClusterSpec, Ended, Host, Worker, WorkerPlan
from clusters.ray_actors import OwnRay
from tests.command import wait_until

pytestmark = pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed")

ROOT = Path(__file__).parent.parent
PATIENCE_S = 60.0
HOST = Host(name="here", cores=2)
GO_VARIABLE = "TROIKA_GO"
# A worker's first line: as the built-in workers do, it waits for the word to go, if it is to.
WAIT = '[ -z "$TROIKA_GO" ] || read -r word <&"$TROIKA_GO" || exit 9; '
SLEEP = WAIT + "sleep 600 & echo $$ > pid-$RANK; wait"
STUBBORN = WAIT + "trap '' TERM; echo $$ > pid-$RANK; while :; do sleep 0.05; done"
MODES = pytest.mark.parametrize("early", [False, True], ids=["late", "early"])


@pytest.fixture(autouse=True)
def in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    ray = load_cluster(ClusterSpec(kind="ray"))
    yield ray
    below = psutil.Process().children(recursive=True)
    folders = ray_folders(below)
    ray.close()
    assert not [process for process in below if is_running(process)]
    assert not [folder for folder in folders if folder.exists()]


def start(cluster: Cluster, *scripts: str, early: bool = False, **env: str) -> list[Worker]:
    """A worker for each script of the shell."""
    slots = cluster.claim(cluster.allocate((HOST,), len(scripts), "cpu", "device")).slots
    return [
        cluster.start(
            WorkerPlan(
                rank=rank,
                slot=slots[rank],
                argv=("sh", "-c", script),
                env={**env, "RANK": str(rank)} | ({GO_VARIABLE: ""} if early else {}),
                log_path=Path(f"logs/rank-{rank}.log"),
                events_path=Path("events"),
                result_path=Path("result"),
            )
        )
        for rank, script in enumerate(scripts)
    ]


def end_of(worker: Worker) -> Ended:
    wait_until(lambda: worker.poll() is not None, "the worker's end", timeout_s=PATIENCE_S)
    ended = worker.poll()
    assert ended is not None
    return ended


def pid_of(worker: Worker) -> int:
    """The process number that the cluster gives, once it gives one."""
    wait_until(
        lambda: bool(worker.poll() or worker.pid), "a worker's process number", timeout_s=PATIENCE_S
    )
    assert worker.pid is not None
    return worker.pid


def guard_of(worker: Worker) -> psutil.Process:
    """The process that guards a running worker."""
    return psutil.Process(psutil.Process(pid_of(worker)).ppid())


def written_pid(rank: int) -> int:
    """The process number that a worker wrote when it was allowed to run."""
    path = Path(f"pid-{rank}")
    wait_until(lambda: path.exists() and bool(path.read_text()), str(path), timeout_s=PATIENCE_S)
    return int(path.read_text())


def is_running(process: psutil.Process) -> bool:
    with suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def ray_folders(processes: list[psutil.Process]) -> set[Path]:
    """Where Ray's servers among ``processes`` have their files."""
    words = [word for process in processes for word in command(process).split()]
    return {Path(word.partition("=")[2]) for word in words if word.startswith("--temp_dir=")}


def below(name: str) -> list[psutil.Process]:
    """The processes below this one that are called ``name``."""
    children = psutil.Process().children(recursive=True)
    return [child for child in children if is_running(child) and name in command(child)]


def command(process: psutil.Process) -> str:
    """How a process was started, "" for one that has gone meanwhile."""
    with suppress(psutil.NoSuchProcess):
        return " ".join(process.cmdline())
    return ""


def listening() -> set[str]:
    """The addresses at which processes below this one can be reached."""
    found = set()
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            for connection in process.net_connections(kind="inet"):
                if connection.status == psutil.CONN_LISTEN:
                    found.add(connection.laddr.ip.removeprefix("::ffff:"))
    return found


@MODES
def test_a_worker_is_what_it_is_on_the_local_cluster(cluster: Cluster, early: bool) -> None:
    script = WAIT + "echo $CUDA_VISIBLE_DEVICES $PWD; env | grep ^RAY_; exit 3"
    ending, sleeping, stubborn = start(
        cluster, script, SLEEP, STUBBORN, early=early, CUDA_VISIBLE_DEVICES="0,1,2"
    )
    pids = [written_pid(rank) for rank in (1, 2)]
    assert [pid_of(worker) for worker in (sleeping, stubborn)] == pids
    assert listening() == {"127.0.0.1"}
    assert (end_of(ending).code, end_of(ending).pid) == (3, ending.pid)
    assert Path("logs/rank-0.log").read_text() == f"0,1,2 {Path.cwd()}\n"
    sleeping.terminate()
    assert end_of(sleeping).code == -signal.SIGTERM
    stubborn.terminate()
    stubborn.kill()
    assert end_of(stubborn).code == -signal.SIGKILL


@MODES
def test_a_worker_ends_with_its_actor_and_its_guard(cluster: Cluster, early: bool) -> None:
    workers = start(cluster, SLEEP, SLEEP, SLEEP, early=early)
    processes = [psutil.Process(pid_of(worker)) for worker in workers]
    assert [written_pid(rank) for rank in range(3)] == [process.pid for process in processes]
    actor = below("ray::Holder")[0]
    actor.kill()
    wait_until(lambda: any(worker.poll() for worker in workers), "the end of the actor's worker")
    (lost,) = [worker for worker in workers if worker.poll()]
    assert f"its Ray actor (pid {actor.pid}) has died" in end_of(lost).evidence
    unguarded, killed = [worker for worker in workers if not worker.poll()]
    guard_of(unguarded).kill()
    psutil.Process(pid_of(killed)).kill()
    assert "its guard process was killed" in end_of(unguarded).evidence
    assert "OOM killer" in end_of(killed).evidence
    assert {end_of(worker).pid for worker in workers} == {process.pid for process in processes}
    wait_until(lambda: not [p for p in processes if is_running(p)], "the end of all workers")


@pytest.mark.parametrize(
    ("victim", "evidence"),
    [
        ("raylet/raylet", "Ray's raylet (pid {pid}) has died, and the workers with it"),
        ("gcs_server", "Ray's gcs_server (pid {pid}) has died, and the workers with it"),
        ("ray_driver", "the process that drives Ray (pid {pid}) was killed by SIGKILL"),
        ("guard.py", "its guard process was killed"),
    ],
)
def test_the_death_of_a_process_of_ray_is_told_and_ends_all(
    cluster: Cluster, victim: str, evidence: str
) -> None:
    workers = start(cluster, SLEEP, SLEEP, early=victim == "raylet/raylet")
    processes = [psutil.Process(written_pid(rank)) for rank in range(2)]
    process = next(p for p in below(victim) if victim != "ray_driver" or p.ppid() != os.getpid())
    process.kill()
    for worker in workers:
        ended = end_of(worker)
        assert ended.code == -signal.SIGKILL
        assert evidence.format(pid=process.pid) in ended.evidence
        assert ended.evidence.endswith(f"; its log: {Path('logs/ray.log')}")
    cluster.close()
    assert not [p for p in [*processes, process] if is_running(p)]


@pytest.mark.parametrize("early", [False, True], ids=["late", "early"])
def test_workers_end_when_they_are_stopped_before_ray_is_up(cluster: Cluster, early: bool) -> None:
    workers = start(cluster, SLEEP, SLEEP, early=early)
    if early:
        assert len({pid_of(worker) for worker in workers}) == 2
    for worker in workers:
        worker.terminate()
    assert [end_of(worker).code for worker in workers] == [-signal.SIGTERM] * 2
    assert not Path("pid-0").exists()


def test_nothing_survives_a_kill_9_of_the_launcher(tmp_path: Path) -> None:
    script = (
        "import time\n"
        "from clusters import load_cluster\n"
        "from clusters.base import ClusterSpec\n"
        "from tests.test_ray_actors import SLEEP, start\n"
        "workers = start(load_cluster(ClusterSpec(kind='ray')), SLEEP, SLEEP, early=True)\n"
        "while True: time.sleep(0.05); [worker.poll() for worker in workers]\n"
    )
    launcher = subprocess.Popen(
        [sys.executable, "-c", script], env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    for rank in range(2):
        written_pid(rank)
    started = psutil.Process(launcher.pid).children(recursive=True)
    folders = ray_folders(started)
    assert len(folders) == 1
    launcher.kill()
    launcher.wait()
    wait_until(lambda: not [process for process in started if is_running(process)], "all ends")
    assert not folders.pop().exists()


def test_a_ray_that_does_not_start_is_told_with_its_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken/ray.py").write_text("raise RuntimeError('no Ray today')")
    cluster = OwnRay(environ={**os.environ, "PYTHONPATH": str(tmp_path / "broken")})
    try:
        ended = end_of(start(cluster, SLEEP)[0])
    finally:
        cluster.close()
    assert ended.evidence == "Ray could not be started: no Ray today; its log: logs/ray.log"
    assert "Traceback" in Path("logs/ray.log").read_text()


def test_where_no_file_can_be_made_the_folder_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", "/proc")
    with pytest.raises(ClusterError, match="a folder below /proc, which cannot be made"):
        start(OwnRay(), SLEEP)
