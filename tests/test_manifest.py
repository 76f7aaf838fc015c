"""``manifest`` as a command: what it prints or writes, and what it refuses."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.command import COMMAND

CLUSTER = """\
kind: ray
name: my-job
gpus: 8
gpus_per_node: 4
max_restarts: 2
slurm: {partition: gpu}
"""


def run(folder: Path, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    (folder / "cluster.yaml").write_text(CLUSTER)
    return subprocess.run(
        [*COMMAND, "manifest", *words],
        cwd=folder,
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_rayjob_is_printed_from_the_cluster_file(tmp_path: Path) -> None:
    words = ("kuberay", "--cluster", "cluster.yaml", "--", "--model", "mlp")
    done = run(tmp_path, *words, TROIKA_EPOCHS="3")
    assert (done.returncode, done.stderr) == (0, "")
    ray_job = yaml.safe_load(done.stdout)
    assert (ray_job["kind"], ray_job["metadata"]["name"]) == ("RayJob", "my-job")
    assert ray_job["spec"]["entrypoint"] == (
        "env TROIKA_EPOCHS=3 python -m launcher --address auto --gpus 8 --max-restarts 2 "
        "--model mlp"
    )
    assert ray_job["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]["replicas"] == 2


def test_a_script_for_slurm_is_written_without_a_cluster_file(tmp_path: Path) -> None:
    words = ("slurm", "--name", "big", "--out", "job.sh", "--", "--gpus", "16", "--out", "run")
    done = run(tmp_path, *words)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    script = (tmp_path / "job.sh").read_text()
    assert script.startswith("#!/bin/bash\n#SBATCH --job-name=big\n#SBATCH --nodes=2\n")
    assert "\ntraining=(--gpus 16 --out run)\n" in script
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cluster.yaml", "job.sh"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("pbs", "--", "--gpus", "2"), "manifest pbs: not known; there are kuberay, slurm"),
        (("slurm", "--", "--model", "mlp"), "--gpus: missing; a manifest needs the number of"),
        (("slurm", "--", "--gpus", "2", "--model", "resnet"), "model resnet (--model): not known"),
        (("slurm", "--", "--gpus", "2", "--strategy", "x"), "strategy x (--strategy): not known"),
        (("slurm", "--", "--gpus", "0"), "gpus 0 (--gpus): must be 1 or more"),
        (("slurm", "--", "--gpus", "2", "--gpu", "3"), "No such option: --gpu"),
        (
            ("kuberay", "--name", "My_Job", "--", "--gpus", "2"),
            "name My_Job (--name): must begin with a letter, have at most 47 of a to z",
        ),
        (
            ("slurm", "--", "--gpus", "2", "--address", "auto"),
            "--address auto behind --: the training runs on the cluster that the manifest makes",
        ),
        (
            ("slurm", "--cluster", "this-machine", "--", "--gpus", "2"),
            "--cluster this-machine: is of kind local (",
        ),
        (
            ("slurm", "--out", "cluster.yaml", "--", "--gpus", "2"),
            "--out cluster.yaml: is there already; name another file",
        ),
        (
            ("slurm", "--out", "nowhere/job.sh", "--", "--gpus", "2"),
            "--out nowhere/job.sh: cannot be written to: No such file or directory",
        ),
    ],
)
def test_a_mistake_is_a_sentence_and_nothing_is_printed(
    tmp_path: Path, words: tuple[str, ...], said: str
) -> None:
    done = run(tmp_path, *words)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert (tmp_path / "cluster.yaml").read_text() == CLUSTER


def test_a_checkpoint_on_the_cluster_need_not_be_here(tmp_path: Path) -> None:
    done = run(tmp_path, "slurm", "--", "--gpus", "2", "--resume", "/there/run")
    assert (done.returncode, done.stderr) == (0, "")
    assert "\ntraining=(--gpus 2 --resume /there/run)\n" in done.stdout
