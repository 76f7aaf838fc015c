"""Trainings on a real Ray cluster, through its job server: what is sent, shown and brought home."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import psutil
import pytest

from launcher.errors import UserError
from launcher.job import Given
from launcher.remote_jobs import JobServer, RemoteJob, connect
from launcher.shipment import OWN
from strategies.mnist.checkpoint import latest, load
from tests.command import COMMAND, wait_until
from tests.ray_head import HOST, Head, free_ports, ray_head
from tests.test_cli import Terminal

needs_ray = pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed")

ROOT = Path(__file__).parent.parent
TIMEOUT_S = 120.0
HERE = ("--cluster", "local", "--device", "cpu")  # on the head, without another Ray below
QUICK = (*HERE, "--model", "softmax", "--steps", "5", "--gpus", "2", "--no-baseline")
TICKS = "import time\nfor tick in range(600): print('tick', tick, flush=True); time.sleep(0.1)\n"


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    with ray_head() as running:
        yield running


@pytest.fixture
def server(head: Head) -> JobServer:
    return JobServer(Given(head.url, "--address"), head.environ)


class Command:
    """A command of the launcher that runs in ``folder``, as one who may reach ``head``."""

    def __init__(self, head: Head, folder: Path, *words: str, **variables: str) -> None:
        self._log = folder / f"output-{len(list(folder.glob('output-*')))}"
        with self._log.open("w") as output:
            self.process = subprocess.Popen(
                [*COMMAND, *words],
                cwd=folder,
                env={**command_environ(head), **variables},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )

    @property
    def said(self) -> str:
        return self._log.read_text()

    def wait_for(self, text: str) -> None:
        wait_until(lambda: text in self.said or self.process.poll() is not None, text, TIMEOUT_S)
        assert text in self.said

    def end(self) -> int:
        try:
            return self.process.wait(TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise


class Person(Terminal):
    """Someone at a terminal, who may press Ctrl-C."""

    def interrupt(self) -> None:
        self._process.send_signal(signal.SIGINT)


def command_environ(head: Head) -> dict[str, str]:
    own = {"PYTHONPATH": str(ROOT), "COLUMNS": "120", "RAY_ADDRESS": head.url}
    temporary = {name: os.environ[name] for name in ("TMPDIR", "TROIKA_TEST_MARK")}
    return {**head.environ, **own, **temporary}


def run(head: Head, folder: Path, *words: str, **variables: str) -> tuple[int, str]:
    command = Command(head, folder, *words, **variables)
    return command.end(), command.said


def listening(pid: int) -> set[int]:
    """The ports at which a process can be reached."""
    connections = psutil.Process(pid).net_connections()
    return {c.laddr.port for c in connections if c.status == psutil.CONN_LISTEN}


def ended(server: JobServer, job_id: str) -> RemoteJob:
    wait_until(lambda: server.job(job_id).is_over, f"the end of job {job_id}", TIMEOUT_S)
    return server.job(job_id)


@needs_ray
def test_a_training_runs_on_the_cluster_and_its_results_come_home(
    head: Head, tmp_path: Path
) -> None:
    code, said = run(
        *(head, tmp_path, "submit", "--id", "training", "--out", "home", "--", *QUICK),
        TROIKA_SEED="7",
    )
    assert code == 0, said
    assert " MB: launcher, strategies, clusters\n" in said
    assert "epoch 1: loss " in said
    assert "<troika-file>" not in said
    report = json.loads((tmp_path / "home/report.json").read_text())
    assert (report["status"], report["workers"]) == ("completed", 2)
    assert (report["settings"]["seed"], report["sources"]["seed"]) == (7, "TROIKA_SEED")
    assert len((tmp_path / "home/losses.csv").read_text().splitlines()) == 1 + 5
    assert load(latest(tmp_path / "home")).header.step == 5
    assert not list((tmp_path / "home").rglob("*.tmp-*"))
    code, said = run(head, tmp_path, "submit", "--id", "training", "--", *QUICK)
    assert (code, "--id training: a job at" in said) == (2, True)
    assert "sends" not in said


@needs_ray
def test_a_script_goes_along_and_its_failure_comes_back(head: Head, tmp_path: Path) -> None:
    (tmp_path / "fails.py").write_text("import beside, sys\nsys.exit(beside.CODE)\n")
    (tmp_path / "beside.py").write_text("CODE = 5\n")
    code, said = run(head, tmp_path, "submit", "--id", "fails", "--", *HERE, "fails.py")
    assert code == 1
    assert f"2 files of {tmp_path}\n" not in said  # this command's own output lies there too
    assert "rank 0 failed first: exit code 5" in said
    assert "job fails failed with exit code 1" in said
    (folder,) = (tmp_path / "runs").iterdir()
    assert json.loads((folder / "report.json").read_text())["status"] == "failed"
    assert run(head, tmp_path, "logs", "fails")[0] == 1


@needs_ray
def test_a_job_that_is_left_can_be_come_back_to(head: Head, tmp_path: Path) -> None:
    code, said = run(head, tmp_path, "submit", "--id", "left", "--detach", "-q", "--", *QUICK)
    assert (code, said) == (0, "left\n")
    code, said = run(head, tmp_path, "logs", "left", "--follow", "--out", "home")
    assert code == 0, said
    assert "epoch 1: loss " in said
    assert f"report.json, losses.csv, checkpoints/step-00000005.safetensors in {tmp_path}" in said
    assert latest(tmp_path / "home").exists()
    code, said = run(head, tmp_path, "status", "left")
    assert (code, "left, succeeded, exit code 0, since " in said) == (0, True)
    assert "job left had ended already" in run(head, tmp_path, "stop", "left")[1]


@needs_ray
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_without_a_terminal_a_signal_stops_the_job(
    head: Head, server: JobServer, tmp_path: Path, number: signal.Signals
) -> None:
    (tmp_path / "ticks.py").write_text(TICKS)
    name = number.name.lower()
    command = Command(head, tmp_path, "submit", "--id", name, "--", *HERE, "ticks.py")
    command.wait_for("CPU worker")
    command.process.send_signal(number)
    assert command.end() == 128 + number
    assert f"stopping job {name}\n" in command.said
    assert f"job {name} was stopped\n" in command.said
    assert ended(server, name).status == "STOPPED"


@needs_ray
def test_a_second_signal_leaves_a_job_that_is_slow_to_stop(head: Head, tmp_path: Path) -> None:
    script = "trap '' TERM; while :; do sleep 0.1; done"
    words = ("submit", "--id", "stubborn", "--", *HERE, "sh", "-c", script)
    command = Command(head, tmp_path, *words)
    command.wait_for("CPU worker")
    command.process.terminate()
    command.wait_for("stopping job stubborn")
    command.process.terminate()
    assert command.end() == 128 + signal.SIGTERM
    assert "job stubborn is left to end by itself; back to it: launcher logs" in command.said


@needs_ray
@pytest.mark.parametrize(("answer", "status"), [(b"n\n", "RUNNING"), (b"y\n", "STOPPED")])
def test_on_a_terminal_ctrl_c_asks_whether_to_stop_the_job(
    head: Head, server: JobServer, tmp_path: Path, answer: bytes, status: str
) -> None:
    (tmp_path / "ticks.py").write_text(TICKS)
    name = f"asked-{status.lower()}"
    words = ["submit", "--id", name, "--working-dir", str(tmp_path), "--out", str(tmp_path / "o")]
    terminal = Person([*COMMAND, *words, "--", *HERE, "ticks.py"], **command_environ(head))
    terminal.read_until(b"CPU worker")
    terminal.interrupt()
    terminal.read_until(f"Stop the remote job {name}? [y/N]: ".encode())
    terminal.write(answer)
    terminal.read_all()
    assert terminal.wait() == 128 + signal.SIGINT
    assert server.job(name).status == status
    assert (b"back to it: launcher logs" in terminal.shown) == (status == "RUNNING")
    server.stop(name)
    assert ended(server, name).status == "STOPPED"


@needs_ray
def test_a_lost_connection_is_taken_up_behind_the_last_line(
    head: Head, server: JobServer, tmp_path: Path
) -> None:
    (tmp_path / "ticks.py").write_text(TICKS.replace("600", "80"))
    (port,) = free_ports(1)
    words = [sys.executable, "-m", "tests.tcp_proxy", str(port), head.url.rpartition(":")[2]]
    proxy = subprocess.Popen(words, cwd=ROOT)
    url = f"http://{HOST}:{port}"
    wait_until(lambda: port in listening(proxy.pid), "the proxy")
    server.submit("lost", f"{sys.executable} {tmp_path}/ticks.py", {})
    command = Command(head, tmp_path, "logs", "lost", "--follow", "--address", url)
    command.wait_for("tick 5")
    proxy.kill()
    proxy.wait()
    command.wait_for("trying again for 60 s")
    proxy = subprocess.Popen(words, cwd=ROOT)
    try:
        command.wait_for("the job server answers again")
        assert command.end() == 0
    finally:
        proxy.kill()
        proxy.wait()
    ticks = [line for line in command.said.splitlines() if line.startswith("tick")]
    assert ticks == [f"tick {number}" for number in range(80)]


@needs_ray
def test_a_python_without_the_launchers_packages_is_told(
    head: Head, server: JobServer, tmp_path: Path
) -> None:
    server.submit("bare", f"{sys.executable} -I -S -c 'import typer'", {})
    code, said = run(head, tmp_path, "logs", "bare", "--follow")
    assert code == 1
    assert "the cluster's Python has no typer, which the launcher needs" in said
    server.submit("nothing", "exec no-such-command", {})
    code, said = run(head, tmp_path, "logs", "nothing", "--follow")
    assert (code, "`python` is not on the PATH of the cluster's head" in said) == (127, True)
    server.submit("gone", "true", {"working_dir": "gcs://_ray_pkg_gone.zip"})
    code, said = run(head, tmp_path, "logs", "gone", "--follow")
    assert (code, "job gone was not started: runtime_env setup failed" in said) == (1, True)


@needs_ray
def test_the_plain_way_through_rays_own_command_works(head: Head, tmp_path: Path) -> None:
    for name in OWN:
        shutil.copytree(ROOT / name, tmp_path / name)
    ray = Path(sys.executable).with_name("ray")
    done = subprocess.run(
        [
            *(ray, "job", "submit", "--address", head.url, "--working-dir", "."),
            *("--", "python", "-m", "launcher", "--strategy", "ddp", *QUICK),
        ],
        cwd=tmp_path,
        env={name: v for name, v in command_environ(head).items() if name != "PYTHONPATH"},
        capture_output=True,
        text=True,
        check=False,
        timeout=TIMEOUT_S,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "epoch 1: loss " in done.stdout
    assert "<troika-file>" not in done.stdout


@needs_ray
def test_a_mistake_is_told_before_anything_is_sent(head: Head, tmp_path: Path) -> None:
    (tmp_path / "spec.yaml").write_text("kind: ray\n")
    behind = ("submit", "--")
    for words, said in [
        ((*behind, "--model", "resnet"), "model resnet (--model): not known; there are lenet, mlp"),
        ((*behind, "--epochs", "many"), "Invalid value for '--epochs'"),
        ((*behind, "--address", "auto"), "--address auto: not behind the --"),
        ((*behind, "--cluster", "spec.yaml"), "--cluster spec.yaml: this file is here, and not on"),
        ((*behind, "compare"), "submit -- compare: only a training can be submitted"),
        (("submit", "--id", "a b", "--", *QUICK), "--id a b: must begin with a letter or a digit"),
        (("logs", "unknown"), "job unknown: job server"),
        (("stop", "unknown"), "knows none of this name; `launcher status` lists them"),
    ]:
        code, text = run(head, tmp_path, *words)
        assert (code, said in text, "sends" in text) == (2, True, False), text


@needs_ray
def test_a_missing_token_and_a_wrong_port_are_told(head: Head) -> None:
    environ = {**head.environ, "RAY_AUTH_TOKEN": "wrong"}
    with pytest.raises(UserError, match="refuses the token of RAY_AUTH_TOKEN"):
        connect(head.url, environ)
    del environ["RAY_AUTH_MODE"]
    with pytest.raises(UserError, match='RAY_AUTH_MODE is not "token" here'):
        connect(head.url, environ)
    with pytest.raises(UserError, match="something listens there that is no job server of Ray"):
        connect(f"http://{head.address}", head.environ)
