"""Failures, signals and kills, with real processes started by the real command."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import psutil
import pytest

from tests.command import COMMAND, finish, launch, start, wait_until

# Leaves a child in its process group and one in a session of its own, as a data loader or a
# logging daemon might.
WITH_CHILDREN = """
import os, subprocess, sys, time
subprocess.Popen(["sleep", "600"])
subprocess.Popen(["sleep", "600"], start_new_session=True)
open(f"ready-{os.environ['RANK']}", "w").close()
time.sleep(600)
"""
STUBBORN = """
import os, signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
open(f"ready-{os.environ['RANK']}", "w").close()
time.sleep(600)
"""


def write_script(folder: Path, text: str) -> str:
    folder.mkdir(exist_ok=True)
    (folder / "job.py").write_text(text)
    return "job.py"


def start_script(folder: Path, text: str, workers: int = 2) -> subprocess.Popen[str]:
    """A launcher whose workers have all come to the point of making their ready file."""
    process = start(folder, "-n", str(workers), "--device", "cpu", write_script(folder, text))
    ready = [folder / f"ready-{rank}" for rank in range(workers)]
    wait_until(lambda: all(path.exists() for path in ready), "the workers' start")
    return process


def children(process: subprocess.Popen[str]) -> list[psutil.Process]:
    return psutil.Process(process.pid).children(recursive=True)


def test_a_script_gets_torchruns_environment_and_its_arguments(tmp_path: Path) -> None:
    names = "RANK LOCAL_RANK WORLD_SIZE LOCAL_WORLD_SIZE GROUP_RANK MASTER_ADDR MASTER_PORT"
    script = write_script(
        tmp_path,
        "import os, sys\n"
        f"print(*(os.environ[name] for name in '{names}'.split()), os.getpgid(0) == os.getpid(),\n"
        "      *sys.argv[1:])",
    )
    finished = launch(tmp_path, "-n", "3", "--device", "cpu", script, "--lr", "7")
    assert finished.code == 0, finished.stdout
    logs = [(finished.folder / f"logs/rank-{rank}.log").read_text().split() for rank in range(3)]
    ports = {log[6] for log in logs}
    assert len(ports) == 1
    port = ports.pop()
    for rank, log in enumerate(logs):
        own = str(rank)
        assert log == [own, own, "3", "3", "0", "127.0.0.1", port, "True", "--lr", "7"]


def test_the_first_failure_is_told_with_its_traceback_and_the_others_are_stopped(
    tmp_path: Path,
) -> None:
    script = write_script(
        tmp_path,
        "import os, time\n"
        "if os.environ['RANK'] == '1':\n"
        "    raise ValueError('no luck')\n"
        "time.sleep(600)\n",
    )
    finished = launch(tmp_path, "-n", "3", "--device", "cpu", script)
    assert finished.code == 1
    assert "rank 1 failed first: exit code 1 (host " in finished.stdout
    assert 'job.py", line 3, in <module>' in finished.stdout
    assert "ValueError: no luck" in finished.stdout
    assert "logs/rank-1.log" in finished.stdout
    assert "rank 0" not in finished.stdout
    assert "rank 2" not in finished.stdout
    failure = finished.report["failure"]
    assert (failure["rank"], failure["end"]) == (1, "exit code 1")
    assert finished.report["status"] == "failed"


def test_a_failing_rank_of_a_torch_job_is_told_not_those_that_lost_it(tmp_path: Path) -> None:
    script = write_script(
        tmp_path,
        "import torch, torch.distributed as dist\n"
        "dist.init_process_group('gloo')\n"
        "dist.all_reduce(torch.ones(1))\n"
        "if dist.get_rank() == 1:\n"
        "    raise ZeroDivisionError('the cause')\n"
        "dist.all_reduce(torch.ones(1))\n",
    )
    finished = launch(tmp_path, "-n", "2", "--device", "cpu", script)
    assert finished.code == 1
    assert "ZeroDivisionError: the cause" in finished.stdout
    assert "rank 0" not in finished.stdout


def test_a_failing_rank_of_a_horovod_job_is_told_not_those_that_lost_it(tmp_path: Path) -> None:
    script = write_script(
        tmp_path,
        "import torch, horovod.torch as hvd\n"
        "hvd.init()\n"
        "assert hvd.allreduce(torch.ones(1), op=hvd.Sum).item() == 2\n"
        "if hvd.rank() == 1:\n"
        "    raise ZeroDivisionError('the cause')\n"
        "hvd.allreduce(torch.ones(1))\n",
    )
    finished = launch(tmp_path, "-n", "2", "--device", "cpu", "--strategy", "horovod", script)
    assert finished.code == 1
    assert "rank 1 failed first: exit code 1" in finished.stdout
    assert "ZeroDivisionError: the cause" in finished.stdout
    assert "rank 0" not in finished.stdout


def test_a_killed_worker_is_told_with_the_likely_cause(tmp_path: Path) -> None:
    script = write_script(tmp_path, "import os; print('so far'); os.kill(os.getpid(), 9)")
    finished = launch(tmp_path, "--device", "cpu", script)
    assert finished.code == 1
    assert "killed by SIGKILL" in finished.stdout
    assert "OOM killer" in finished.stdout
    assert "so far" in finished.stdout


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_stops_everything_and_gives_128_and_its_number(
    tmp_path: Path, number: signal.Signals
) -> None:
    process = start_script(tmp_path, WITH_CHILDREN)
    started = children(process)
    process.send_signal(number)
    finished = finish(process, tmp_path)
    assert finished.code == 128 + number
    assert f"stopped by {number.name}" in finished.stdout
    assert finished.report["status"] == "interrupted"
    assert not [child for child in started if child.is_running()]


def test_a_second_interrupt_kills_workers_that_ignore_the_first(tmp_path: Path) -> None:
    process = start_script(tmp_path, STUBBORN)
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGINT)
    assert finish(process, tmp_path).code == 128 + signal.SIGINT


def test_workers_that_ignore_the_request_to_end_are_killed(tmp_path: Path) -> None:
    process = start_script(tmp_path, STUBBORN)
    process.send_signal(signal.SIGTERM)
    assert finish(process, tmp_path).code == 128 + signal.SIGTERM


def test_under_nohup_a_hangup_ends_nothing(tmp_path: Path) -> None:
    script = write_script(
        tmp_path,
        "import os, time\n"
        "open('ready-0', 'w').close()\n"
        "while not os.path.exists('go'): time.sleep(0.01)\n",
    )
    command = ["nohup", *COMMAND, "--out", "run", "--device", "cpu", script]
    process = subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    wait_until((tmp_path / "ready-0").exists, "the worker's start")
    process.send_signal(signal.SIGHUP)
    (tmp_path / "go").touch()
    assert finish(process, tmp_path).code == 0


@pytest.mark.parametrize("victim", ["launcher", "guard", "worker"])
def test_nothing_survives_a_kill_9_of_any_process(tmp_path: Path, victim: str) -> None:
    process = start_script(tmp_path, WITH_CHILDREN)
    started = children(process)
    by_depth = {
        "launcher": process.pid,
        "guard": next(c.pid for c in started if "guard.py" in " ".join(c.cmdline())),
        "worker": next(c.pid for c in started if c.cmdline()[-1] == "job.py"),
    }
    os.kill(by_depth[victim], signal.SIGKILL)
    wait_until(
        lambda: not [child for child in started if _alive(child)], "the end of all", timeout_s=20.0
    )
    finished = finish(process, tmp_path)
    assert finished.code == (-signal.SIGKILL if victim == "launcher" else 1)


def _alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_children_left_by_a_finished_script_are_ended(tmp_path: Path) -> None:
    text = WITH_CHILDREN.replace("time.sleep(600)", "")
    finished = launch(tmp_path, "-n", "2", "--device", "cpu", write_script(tmp_path, text))
    assert finished.code == 0


def test_an_interrupted_training_keeps_its_last_checkpoint(tmp_path: Path) -> None:
    process = start(tmp_path, "--model", "softmax", "--epochs", "10000", "--device", "cpu")
    checkpoints = tmp_path / "run/checkpoints"
    wait_until(lambda: any(checkpoints.glob("step-*")), "the first checkpoint")
    process.send_signal(signal.SIGINT)
    finished = finish(process, tmp_path)
    assert finished.code == 128 + signal.SIGINT
    assert f"--resume {tmp_path / 'run'}" in finished.stdout
    assert finished.checkpoint.header.step > 0
    assert not list(checkpoints.glob("*.tmp-*"))
