"""The command ``cluster``, and what a cluster file gives to a job."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

import clusters
from clusters.spec import examples, schema
from launcher.cluster_file import clusters_given, read_cluster
from launcher.job import Given
from tests.command import COMMAND, TIMEOUT_S


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def cluster_command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, "cluster", *arguments],
        env={**os.environ, "COLUMNS": "120"},
        capture_output=True,
        text=True,
        check=False,
        timeout=TIMEOUT_S,
    )


def test_the_settings_of_a_job_come_with_their_lines(folder: Path) -> None:
    (folder / "f.yaml").write_text("kind: ray\nname: lab\ngpus: 8\nwait: true\n")
    assert clusters_given(read_cluster("f.yaml")) == {
        "gpus": Given(8, "f.yaml:3"),
        "wait": Given(math.inf, "f.yaml:4"),
    }


def test_a_valid_file_is_told_with_its_kind(folder: Path) -> None:
    (folder / "f.yaml").write_text("kind: ray\ngpus: 4\nwait: 5\n")
    done = cluster_command("validate", "f.yaml")
    assert (done.returncode, done.stdout) == (0, "f.yaml: a cluster of kind ray, 2 settings\n")


def test_an_invalid_file_is_refused_by_the_command_without_a_traceback(folder: Path) -> None:
    (folder / "f.yaml").write_text("kind: ray\ngpus: x\nwait: x\n")
    done = cluster_command("validate", "f.yaml")
    assert (done.returncode, done.stdout) == (2, "")
    first, second = done.stderr.splitlines()
    assert first.startswith("error: f.yaml:2: gpus: must be a whole number")
    assert second.startswith("f.yaml:3: wait: must be true or a number")


def test_the_command_prints_the_schema_and_the_examples() -> None:
    assert json.loads(cluster_command("schema").stdout) == schema()
    lines = cluster_command("examples").stdout.splitlines()
    assert [line.split()[0] for line in lines] == list(examples())
    assert any("An existing Ray cluster, by its address." in line for line in lines)


def test_the_launcher_loads_pydantic_only_for_a_file() -> None:
    code = (
        "import sys, launcher.cli, launcher.commands, launcher.cluster_file\n"
        "print(*sorted({'pydantic', 'yaml', 'clusters.spec'} & set(sys.modules)))\n"
    )
    root = str(Path(clusters.__file__).parent.parent)
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": root},
        capture_output=True,
        text=True,
        check=True,
        timeout=TIMEOUT_S,
    )
    assert done.stdout == "\n"
