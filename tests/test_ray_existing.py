"""The launcher on an existing Ray cluster of several nodes, and whatever of it dies."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

import psutil
import pytest

from strategies.horovod_build import horovod_ready
from tests.command import Finished, finish, launch, start, wait_until
from tests.raylets import Node, Raylet, Raylets, raylets

pytestmark = [
    pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed"),
    pytest.mark.slow,
]

GPU_NODE = Node(cpus=3, gpus=2, labels={"pool": "gpu"})
WORKER = "strategies.worker"
TRAINING = ("--model", "mlp", "--steps", "60", "--no-baseline")
NO_HOROVOD = horovod_ready()


@pytest.fixture(scope="module")
def cluster() -> Iterator[Raylets]:
    """A head that takes no workers, and two nodes that declare two GPUs each."""
    with raylets(Node(cpus=0), GPU_NODE, GPU_NODE, client=True) as started:
        yield started


def on(cluster: Raylets, folder: Path, *arguments: str) -> Finished:
    """The launcher, run to its end."""
    return launch(folder, "--address", cluster.address, *arguments, **cluster.environ)


def begun(cluster: Raylets, folder: Path, *arguments: str) -> subprocess.Popen[str]:
    """The launcher, once its first epoch is done."""
    process = start(folder, "--address", cluster.address, *arguments, **cluster.environ)
    events = folder / "run/events/rank-0.jsonl"
    wait_until(
        lambda: (
            process.poll() is not None
            or (events.exists() and '"event": "epoch"' in events.read_text())
        ),
        "the first epoch's end",
        timeout_s=120,
    )
    return process


def running(node: Raylet, word: str) -> list[psutil.Process]:
    """The node's processes with ``word`` in their command."""
    found = []
    for process in node.processes():
        with suppress(psutil.NoSuchProcess):  # it has ended meanwhile, or is a zombie
            if word in " ".join(process.cmdline()):
                found.append(process)
    return found


def assert_nothing_runs(cluster: Raylets) -> None:
    wait_until(
        lambda: not [one for node in cluster.nodes for one in running(node, WORKER)],
        "the end of all workers",
    )


@pytest.fixture(scope="module")
def curve(tmp_path_factory: pytest.TempPathFactory) -> list[float]:
    """The losses of the training on this machine alone."""
    finished = launch(tmp_path_factory.mktemp("local"), *TRAINING, "--gpus", "1")
    assert finished.code == 0, finished.stderr
    return finished.losses


@pytest.mark.parametrize("strategy", ["ddp", "horovod", "mirrored"])
def test_every_strategy_has_the_one_loss_curve_on_several_nodes(
    cluster: Raylets, curve: list[float], tmp_path: Path, strategy: str
) -> None:
    if strategy == "horovod" and NO_HOROVOD:
        pytest.skip(NO_HOROVOD)
    spec = tmp_path / "spread.yaml"
    spec.write_text("kind: ray\nplacement: spread\n")
    finished = on(
        cluster,
        tmp_path,
        *("--cluster", str(spec), "--strategy", strategy, "--gpus", "2"),
        *TRAINING,
    )
    assert finished.code == 0, finished.stdout + finished.stderr
    assert finished.losses == pytest.approx(curve, rel=1e-4)
    report = finished.report
    assert report["hosts"] == ["node-1", "node-2"]
    assert "Ray declares GPUs that its nodes do not have" in finished.stdout
    assert "CPU" in report["conditions"]
    assert finished.checkpoint.header.step == 60
    assert_nothing_runs(cluster)


def test_four_workers_meet_through_a_client_address(
    cluster: Raylets, curve: list[float], tmp_path: Path
) -> None:
    assert cluster.client
    finished = launch(
        tmp_path, "--address", cluster.client, "--gpus", "4", *TRAINING, **cluster.environ
    )
    assert finished.code == 0, finished.stdout + finished.stderr
    assert finished.losses == pytest.approx(curve, rel=1e-4)


def test_it_goes_on_there_from_a_checkpoint_of_here(
    cluster: Raylets, curve: list[float], tmp_path: Path
) -> None:
    half = launch(tmp_path / "half", "--model", "mlp", "--steps", "30", "--no-baseline")
    assert half.code == 0
    finished = on(
        cluster, tmp_path, "--resume", str(half.folder), "--gpus", "2", "--steps", "60", "--quiet"
    )
    assert finished.code == 0, finished.stderr
    assert half.losses + finished.losses == pytest.approx(curve, rel=1e-4)


SCRIPT = """
import json, os, socket, sys
from pathlib import Path
import beside

names = ["RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_RANK", "MASTER_ADDR"]
told = {name: os.environ[name] for name in [*names, "FROM_FILE", "CUDA_VISIBLE_DEVICES"]}
print(json.dumps({**told, "said": beside.WORD, "argument": sys.argv[1]}))
if sys.argv[1] == "fail" and os.environ["RANK"] == "1":
    raise ValueError("rank 1 has had enough")
"""


@pytest.fixture
def script(tmp_path: Path) -> tuple[str, ...]:
    """A user's script with a module beside it, and a cluster file with a variable."""
    (tmp_path / "train.py").write_text(SCRIPT)
    (tmp_path / "beside.py").write_text("WORD = 'hello'\n")
    (tmp_path / "spec.yaml").write_text("kind: ray\nenv:\n  FROM_FILE: from the file\n")
    return ("--cluster", "spec.yaml", "--gpus", "3")


def test_a_script_runs_on_the_nodes_with_its_folder_and_torchruns_variables(
    cluster: Raylets, tmp_path: Path, script: tuple[str, ...]
) -> None:
    finished = on(cluster, tmp_path, *script, "train.py", "go")
    assert finished.code == 0, finished.stdout + finished.stderr
    told = [
        json.loads((finished.folder / f"logs/rank-{rank}.log").read_text()) for rank in range(3)
    ]
    assert [one["RANK"] for one in told] == ["0", "1", "2"]
    assert [one["LOCAL_RANK"] for one in told] == ["0", "1", "0"]
    assert [one["LOCAL_WORLD_SIZE"] for one in told] == ["2", "2", "1"]
    assert [one["GROUP_RANK"] for one in told] == ["0", "0", "1"]
    assert {one["WORLD_SIZE"] for one in told} == {"3"}
    assert {one["MASTER_ADDR"] for one in told} <= {node.address for node in cluster.nodes}
    assert {one["FROM_FILE"] for one in told} == {"from the file"}
    assert {one["said"] for one in told} == {"hello"}
    assert {one["argument"] for one in told} == {"go"}


def test_the_first_failure_comes_home_with_its_traceback(
    cluster: Raylets, tmp_path: Path, script: tuple[str, ...]
) -> None:
    finished = on(cluster, tmp_path, *script, "train.py", "fail")
    assert finished.code == 1
    assert "rank 1 failed first: exit code 1 (host node-" in finished.stdout
    assert "ValueError: rank 1 has had enough" in finished.stdout
    assert finished.report["failure"]["rank"] == 1


def test_more_than_there_is_is_refused_with_what_there_is(cluster: Raylets, tmp_path: Path) -> None:
    finished = on(cluster, tmp_path, "--gpus", "8")
    assert finished.code == 2
    (first, second) = cluster.nodes[1:]
    assert finished.stderr == (
        "error: gpus 8 (--gpus): 8 GPUs asked for; the cluster has room for 4, 4 of them free: "
        f"node-1 ({first.address}) 2 of 2 free; node-2 ({second.address}) 2 of 2 free; "
        "ask for fewer, or wait for room with --wait\n"
    )


def test_it_waits_for_room_while_another_job_has_it(cluster: Raylets, tmp_path: Path) -> None:
    first = begun(cluster, tmp_path / "first", "--gpus", "4", "--epochs", "400", "--model", "mlp")
    second = start(
        tmp_path / "second",
        *("--address", cluster.address, "--gpus", "3", "--wait", "120", *TRAINING),
        **cluster.environ,
    )
    refused = on(cluster, tmp_path / "third", "--gpus", "3", "--wait", "1")
    assert "the cluster has room for 4, 0 of them free" in refused.stderr
    assert "waited for 1 s (--wait)" in refused.stderr
    first.send_signal(signal.SIGINT)
    assert finish(first, tmp_path / "first").code == 130
    finished = finish(second, tmp_path / "second")
    assert finished.code == 0, finished.stdout + finished.stderr
    assert "waiting for room: 3 GPUs asked for" in finished.stdout


def test_a_dry_run_shows_the_nodes_and_starts_nothing(cluster: Raylets, tmp_path: Path) -> None:
    finished = on(cluster, tmp_path, "--gpus", "3", "--dry-run", "--json")
    assert finished.code == 0, finished.stderr
    plan = json.loads(finished.stdout)
    assert [worker["host"] for worker in plan["workers"]] == ["node-1", "node-1", "node-2"]
    assert plan["settings"]["address"] == {"value": cluster.address, "origin": "--address"}
    assert plan["settings"]["placement"] == {"value": "pack", "origin": "default"}
    assert not finished.folder.exists()
    assert not [one for node in cluster.nodes for one in running(node, "Outpost")]


def test_labels_choose_the_nodes(cluster: Raylets, tmp_path: Path) -> None:
    spec = tmp_path / "labelled.yaml"
    spec.write_text("kind: ray\nlabels:\n  pool: cpu\n")
    finished = on(cluster, tmp_path, "--cluster", str(spec), "--gpus", "1")
    assert finished.code == 2
    assert "no node with the labels pool: cpu" in finished.stderr


def kill_worker(cluster: Raylets) -> str:
    running(cluster.nodes[2], WORKER)[-1].kill()
    return "failed first: killed by SIGKILL (host node-2"


def kill_actor(cluster: Raylets) -> str:
    running(cluster.nodes[2], "ray::Outpost")[0].kill()
    return f"its Ray actor on node-2 ({cluster.nodes[2].address}) is lost"


@pytest.mark.parametrize("kill", [kill_worker, kill_actor])
def test_what_is_killed_is_named_and_the_rest_ended(
    cluster: Raylets, tmp_path: Path, kill: Callable[[Raylets], str]
) -> None:
    process = begun(cluster, tmp_path, "--gpus", "4", "--epochs", "400", "--model", "mlp")
    said = kill(cluster)
    finished = finish(process, tmp_path)
    assert finished.code == 1
    assert said in finished.stdout
    assert finished.report["epochs"], "what was done before is lost"
    assert_nothing_runs(cluster)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_job_on_all_nodes(
    cluster: Raylets, tmp_path: Path, number: signal.Signals
) -> None:
    process = begun(cluster, tmp_path, "--gpus", "2", "--epochs", "400", "--model", "mlp")
    process.send_signal(number)
    assert finish(process, tmp_path).code == 128 + number
    assert_nothing_runs(cluster)


def test_nothing_survives_the_launcher(cluster: Raylets, tmp_path: Path) -> None:
    process = begun(cluster, tmp_path, "--gpus", "4", "--epochs", "400", "--model", "mlp")
    assert running(cluster.nodes[1], WORKER)
    process.kill()
    process.communicate()
    assert_nothing_runs(cluster)
    assert on(cluster, tmp_path / "next", "--gpus", "4", "--wait", "30", *TRAINING).code == 0


def test_a_killed_raylet_is_a_failure_that_is_told(tmp_path: Path) -> None:
    with raylets(Node(cpus=0), GPU_NODE, GPU_NODE) as cluster:
        process = begun(cluster, tmp_path, "--gpus", "4", "--epochs", "400", "--model", "mlp")
        cluster.nodes[2].kill_raylet()
        finished = finish(process, tmp_path)
        assert finished.code == 1
        node = f"node-2 ({cluster.nodes[2].address})"
        assert f"its node {node} is lost: the raylet there does not answer" in finished.stdout
        assert_nothing_runs(cluster)


def test_a_lost_node_costs_a_restart_and_not_the_job(tmp_path: Path) -> None:
    with raylets(Node(cpus=0), GPU_NODE, GPU_NODE) as cluster:
        process = begun(
            *(cluster, tmp_path, "--gpus", "4", "--epochs", "3", "--model", "mlp"),
            *("--no-baseline", "--max-restarts", "1", "--min-gpus", "2"),
        )
        cluster.nodes[2].kill()
        finished = finish(process, tmp_path)
    assert finished.code == 0, finished.stdout + finished.stderr
    report = finished.report
    (restart,) = report["restarts"]
    assert restart["failure"]["host"] == "node-2"
    assert (restart["workers_before"], restart["workers"]) == (4, 2)
    assert restart["hosts"] == ["node-1"]
    assert report["settings"]["batch_size"] == 32
    assert [epoch["epoch"] for epoch in report["epochs"]] == [1, 2, 3]
    assert report["epochs"][-1]["test_accuracy"] > 0.96
    assert len(finished.losses) == report["epochs"][-1]["steps"]
    assert "lost with its host; from then on 2 instead of 4 workers" in finished.stdout


def test_an_address_where_nothing_listens_is_told_at_once(tmp_path: Path) -> None:
    finished = launch(tmp_path, "--address", "127.0.0.1:1", "--gpus", "1")
    assert finished.code == 2
    assert "127.0.0.1:1" in finished.stderr
    assert "connection refused" in finished.stderr


def test_the_launching_process_imports_no_ray(cluster: Raylets, tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from launcher.cli import main\n"
        f"sys.argv = ['launcher', '--address', {cluster.address!r}, '--model', 'softmax',\n"
        "            '--steps', '2', '--out', 'run', '--quiet']\n"
        "try:\n"
        "    main()\n"
        "except SystemExit as end:\n"
        "    assert not end.code, end.code\n"
        "print(*{name.partition('.')[0] for name in sys.modules})\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, **cluster.environ, "PYTHONPATH": str(Path(__file__).parent.parent)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert not set(done.stdout.split()) & {"ray", "torch", "tensorflow"}
