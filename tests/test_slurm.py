"""The Slurm script: what it asks for, and, with Slurm played, what it does."""

from __future__ import annotations

import json
import os
import random
import shutil
import socket
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from launcher.errors import UserError
from launcher.job import Given
from launcher.nodes import cluster_job
from launcher.slurm import slurm_script
from tests.command import wait_until

ROOT = Path(__file__).parents[1]
LAUNCHER = """\
import os, sys, ray
ray.init(sys.argv[2], log_to_driver=False)
alive = [node for node in ray.nodes() if node["Alive"]]
print(len(alive), "nodes,", ray.cluster_resources()["CPU"], "CPUs for", sys.argv[3:])
sys.exit(7)
"""


def script(
    gpus: int = 3, *arguments: str, values: Mapping[str, Any] | None = None, join_s: int = 60
) -> str:
    """The script for CPU workers, one a node."""
    asked: dict[str, Any] = {"gpus_per_node": 1, **(values or {})}
    training = {"gpus": Given(gpus, "--gpus"), "device": Given("cpu", "--device")}
    job = cluster_job(
        asked, training, arguments, os.environ, name=None, extra="ddp", origin="c.yaml:{}".format
    )
    return slurm_script(asked, job, origin="c.yaml:{}".format, join_s=join_s)


def directives(text: str) -> set[str]:
    return {line.split(" ", 1)[1] for line in text.splitlines() if line.startswith("#SBATCH")}


def test_the_allocation_has_what_the_job_and_the_file_ask_for() -> None:
    slurm = {
        **{"partition": "gpu", "account": "team", "qos": "high", "time": "1-12", "memory": "128G"},
        **{"constraint": "a100&nvlink", "options": ["--exclusive"]},
    }
    values = {"slurm": slurm, "gpus_per_node": 4, "cpus_per_worker": 6}
    job = cluster_job(
        values, {"gpus": Given(8, "--gpus")}, (), {}, name=None, extra="ddp", origin=str
    )
    assert directives(slurm_script(values, job, origin=str)) == {
        *("--job-name=troika-ddp", "--nodes=2", "--ntasks-per-node=1", "--cpus-per-task=24"),
        *("--gpus-per-node=4", "--mem=128G", "--partition=gpu", "--account=team", "--qos=high"),
        *("--time=1-12", "--constraint='a100&nvlink'", "--signal=B:TERM@60", "--exclusive"),
    }


def test_cpu_workers_ask_for_no_gpu() -> None:
    text = script(2)
    assert not [option for option in directives(text) if "gpu" in option]
    assert "--num-gpus=0" in text


def test_a_port_that_ray_gives_to_its_workers_is_refused() -> None:
    with pytest.raises(UserError, match=r"ray_port 12000 \(c\.yaml:slurm\.ray_port\): .* 6379"):
        script(values={"slurm": {"ray_port": 12000}})
    assert "\nport=6379\n" in script(values={"slurm": {"ray_port": 6379}})


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed")
@pytest.mark.parametrize("gpus", [1, 3])
def test_shellcheck_finds_nothing(gpus: int) -> None:
    values = {"env": {"NAME": "it's here"}, "slurm": {"setup": ["umask 022"]}}
    checked = subprocess.run(
        ["shellcheck", "-"],
        input=script(gpus, "train.py", "a b", values=values),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (checked.returncode, checked.stdout) == (0, "")


@dataclass(frozen=True)
class Slurm:
    """A played Slurm: the programs in ``folder/bin``, its jobs in ``folder``."""

    folder: Path

    def play(self, *programs: str) -> None:
        (self.folder / "calls").touch()
        (self.folder / "bin").mkdir()
        for name in programs:
            path = self.folder / "bin" / name
            path.write_text(
                f"#!{sys.executable}\nimport sys\nsys.path.insert(0, {str(ROOT)!r})\n"
                f"from tests.fake_slurm import {name}\n{name}()\n"
            )
            path.chmod(0o755)

    def submit(self, text: str, *nodes: str, **variables: str) -> subprocess.Popen[str]:
        (self.folder / "job.sh").write_text(text)
        return subprocess.Popen(
            ["bash", "job.sh"],
            cwd=self.folder,
            env={
                **os.environ,
                "PATH": f"{self.folder}/bin:{os.environ['PATH']}",
                "FAKE_SLURM": str(self.folder),
                "SLURM_JOB_ID": str(free_port() - 20000 + 10000 * random.randrange(1000)),
                "SLURM_JOB_NODELIST": ",".join(nodes),
                **{"FAKE_RAY": "runs", "FAKE_LAUNCHER": "0", **variables},
            },
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, text: str, *nodes: str, **variables: str) -> tuple[int, str, str]:
        """The job's exit code, what it printed, and its complaints."""
        process = self.submit(text, *nodes, **variables)
        try:
            stdout, stderr = process.communicate(timeout=120)
        except subprocess.TimeoutExpired:
            process.terminate()
            process.communicate()
            raise
        return process.returncode, stdout, stderr

    def calls(self, program: str, key: str = "arguments") -> list[Any]:
        calls = [json.loads(line) for line in (self.folder / "calls").read_text().splitlines()]
        return [call[key] for call in calls if call["program"] == program and key in call]

    @property
    def rays_folders(self) -> list[Path]:
        words = [word for call in self.calls("ray") for word in call]
        return [Path(word.partition("=")[2]) for word in words if word.startswith("--temp-dir=")]


@pytest.fixture
def slurm(tmp_path: Path) -> Slurm:
    played = Slurm(tmp_path)
    played.play("srun", "scontrol", "ray", "python")
    return played


def free_port() -> int:
    """One of those that the script chooses from."""
    while True:
        port = random.randrange(20000, 30000)
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)):
                return port


def test_ray_starts_on_every_node_the_launcher_runs_and_ray_is_stopped(slurm: Slurm) -> None:
    text = script(3, "train.py", "it's $HOME", values={"env": {"NAME": "a b"}})
    code, _, stderr = slurm.run(text, "n-1", "n-2", "n-3", FAKE_LAUNCHER="5")
    assert (code, stderr) == (5, "")
    head, *others = sorted(slurm.calls("ray"), key=lambda call: "--head" not in call)
    address = next(word for word in others[0] if word.startswith("--address="))
    assert {"start", "--head", "--block", "--num-cpus=1"} <= set(head)
    assert [address in call and "--head" not in call for call in others] == [True, True]
    assert slurm.calls("python") == [
        ["-m", "launcher", "--address", address.partition("=")[2], "train.py", "it's $HOME"]
    ]
    wheres = [set(call) & {"--nodelist=n-1", "--exclude=n-1"} for call in slurm.calls("srun")]
    assert sorted(wheres, key=str) == [{"--exclude=n-1"}, {"--nodelist=n-1"}]
    assert slurm.calls("ray", "ended") == ["SIGTERM"] * 3


def test_the_token_is_one_for_all_and_on_no_command_line(slurm: Slurm) -> None:
    tokens = set()
    for _ in range(2):
        assert slurm.run(script(2), "n-1", "n-2") == (0, "", "")
        tokens |= {*slurm.calls("ray", "token"), *slurm.calls("python", "token")}
    assert sorted(len(token) for token in tokens) == [64, 64]
    words = [
        word for name in ("ray", "python", "srun") for call in slurm.calls(name) for word in call
    ]
    assert not [word for word in words if any(token in word for token in tokens)]


def test_rays_folders_go_with_the_job(slurm: Slurm) -> None:
    assert slurm.run(script(2), "n-1", "n-2") == (0, "", "")
    assert len(set(slurm.rays_folders)) == 2
    assert not [folder for folder in slurm.rays_folders if folder.exists()]


def test_sigterm_stops_the_launcher_and_then_ray(slurm: Slurm) -> None:
    process = slurm.submit(script(2), "n-1", "n-2", FAKE_LAUNCHER="hangs")
    wait_until(lambda: slurm.calls("python") != [], "the launcher")
    process.terminate()
    process.communicate(timeout=60)
    assert process.returncode == 143
    assert slurm.calls("python", "ended") == ["SIGTERM"]
    assert slurm.calls("ray", "ended") == ["SIGTERM"] * 2
    assert not [folder for folder in slurm.rays_folders if folder.exists()]


def test_a_ray_that_does_not_start_ends_the_job_with_a_sentence(slurm: Slurm) -> None:
    (slurm.folder / "bin/python").unlink()
    code, _, stderr = slurm.run(script(1), "n-1", FAKE_RAY="fails")
    assert code == 1
    assert "ray: something is wrong" in stderr
    assert "Ray has ended on a node before all 1 had joined; the lines above say why" in stderr


def test_nodes_that_do_not_come_are_told_after_the_deadline(slurm: Slurm) -> None:
    (slurm.folder / "bin/python").unlink()
    (slurm.folder / "bin/srun").write_text("#!/bin/bash\nexec sleep 60\n")
    code, _, stderr = slurm.run(script(2, join_s=1), "n-1", "n-2")
    assert (code, stderr) == (1, "0 of 2 nodes have joined Ray within 1 s: none\n")


def test_setup_runs_on_every_node_and_for_the_launcher(slurm: Slurm) -> None:
    slurm.run(script(2, values={"slurm": {"setup": ["echo $$ >> setups"]}}), "n-1", "n-2")
    assert len(set((slurm.folder / "setups").read_text().split())) == 3


@pytest.mark.slow
def test_a_real_ray_has_all_nodes_before_the_launcher_runs(tmp_path: Path) -> None:
    slurm = Slurm(tmp_path)
    slurm.play("srun", "scontrol")
    (tmp_path / "launcher").mkdir()
    (tmp_path / "launcher/__init__.py").touch()
    (tmp_path / "launcher/__main__.py").write_text(LAUNCHER)
    before = set(Path("/tmp").glob("troika-slurm-*"))
    code, stdout, stderr = slurm.run(
        script(2, "--model", "mlp"),
        *("n-1", "n-2"),
        PATH=f"{tmp_path}/bin:{Path(sys.executable).parent}:{os.environ['PATH']}",
        RAY_USAGE_STATS_ENABLED="0",
    )
    assert (code, stdout) == (7, "2 nodes, 2.0 CPUs for ['--model', 'mlp']\n"), stderr
    assert set(Path("/tmp").glob("troika-slurm-*")) == before
