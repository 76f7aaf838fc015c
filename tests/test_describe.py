"""A dry run: every setting with its origin, every worker, as tables or as JSON; nothing starts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from clusters.base import Slot, WorkerPlan
from launcher.describe import environment
from tests.command import Finished, launch

FILE = "kind: local\nname: lab\ndevice: cpu\ngpus: 3\nmax_restarts: 1\nenv:\n  MY_FLAG: 'on'\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "lab.yaml").write_text(FILE)
    return tmp_path


def dry_run(folder: Path, *arguments: str, **variables: str) -> Finished:
    """A dry run; it must not write anything."""
    before = sorted(folder.rglob("*"))
    finished = launch(folder, "--dry-run", *arguments, **variables)
    assert finished.code == 0, finished.stderr
    assert sorted(folder.rglob("*")) == before
    return finished


def as_data(folder: Path, *arguments: str, **variables: str) -> Any:
    finished = dry_run(folder, "--json", *arguments, **variables)
    assert finished.stderr == ""
    return json.loads(finished.stdout)


def rows(finished: Finished) -> set[str]:
    """The lines that were printed, each with single spaces."""
    return {" ".join(line.split()) for line in finished.stdout.splitlines()}


@pytest.mark.parametrize(
    ("name", "value", "origin"),
    [
        ("lr", 0.5, "--lr"),
        ("gpus", 2, "--gpus"),
        ("seed", 7, "TROIKA_SEED"),
        ("epochs", 5, "recipe 'article' of lenet"),
        ("model", "lenet", "default"),
        ("device", "cpu", "lab.yaml:3"),
        ("max_restarts", 1, "lab.yaml:5"),
        ("kind", "local", "lab.yaml:1"),
        ("name", "lab", "lab.yaml:2"),
        ("env", {"MY_FLAG": "on"}, "lab.yaml:6"),
        ("placement", "pack", "default"),
        ("address", None, "default"),
    ],
)
def test_every_setting_has_its_value_and_origin(
    described: Any, name: str, value: object, origin: str
) -> None:
    assert described["settings"][name] == {"value": value, "origin": origin}


@pytest.fixture(scope="module")
def described(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A job that takes settings from flags, a variable, a file, a recipe and defaults."""
    folder = tmp_path_factory.mktemp("described")
    (folder / "lab.yaml").write_text(FILE)
    arguments = ("--cluster", "lab.yaml", "--lr", "0.5", "--gpus", "2")
    return as_data(folder, *arguments, TROIKA_SEED="7")


def test_the_json_has_every_worker(described: Any, tmp_path: Path) -> None:
    assert [worker["rank"] for worker in described["workers"]] == [0, 1]
    worker = described["workers"][1]
    assert (worker["address"], worker["local_rank"], worker["devices"]) == ("127.0.0.1", 1, [])
    assert worker["argv"][1:3] == ["-m", "strategies.worker"]
    assert worker["env"].items() >= {"RANK": "1", "WORLD_SIZE": "2", "MY_FLAG": "on"}.items()


def test_the_json_has_what_was_decided_for_all(described: Any) -> None:
    assert (described["device"], described["exchange"]) == ("cpu", "auto")
    assert described["threads"] >= 1
    assert isinstance(described["notes"], list)


def test_the_tables_say_the_same(folder: Path) -> None:
    finished = dry_run(
        folder, "--cluster", "lab.yaml", "--lr", "0.5", CUDA_VISIBLE_DEVICES="", TROIKA_SEED="7"
    )
    told = rows(finished)
    assert {"lr 0.5 --lr", "seed 7 TROIKA_SEED", "gpus 3 lab.yaml:4", "wait - default"} <= told
    assert any(row.startswith("Decided: cpu, ") and row.endswith("by auto") for row in told)
    assert {"Worker 2, variables", "RANK=2", "MY_FLAG=on"} <= told
    assert any(row.startswith("2 ") and "strategies.worker" in row for row in told)


def test_ports_are_told_to_come_at_the_start(folder: Path) -> None:
    assert "MASTER_PORT=(a free port, at the start)" in rows(dry_run(folder, "--device", "cpu"))


def test_a_script_is_shown_as_it_will_run(folder: Path) -> None:
    described = as_data(folder, "--device", "cpu", "--gpus", "1", "./train", "--wait", "--json")
    assert described["workers"][0]["argv"] == ["./train", "--wait", "--json"]


def test_a_wait_without_end_is_said_in_words(folder: Path) -> None:
    described = as_data(folder, "--gpus", "1", "--wait", "--epochs", "1")
    assert described["settings"]["wait"] == {"value": "for ever", "origin": "--wait"}


def test_a_shipped_example_may_be_described(folder: Path) -> None:
    described = as_data(folder, "--cluster", "eight-gpu-box")
    assert len(described["workers"]) == 8
    origin = described["settings"]["gpus"]["origin"]
    assert origin == "eight-gpu-box.yaml:7"


def test_an_invalid_file_is_refused_with_its_line(folder: Path) -> None:
    (folder / "bad.yaml").write_text("kind: local\ngpu: 2\n")
    finished = launch(folder, "--dry-run", "--cluster", "bad.yaml")
    assert finished.code == 2
    assert finished.stderr.startswith("error: bad.yaml:2: gpu: ")
    assert "gpus" in finished.stderr


def test_a_value_from_a_file_that_cannot_be_is_named_with_its_line(folder: Path) -> None:
    finished = launch(folder, "--cluster", "lab.yaml", "--batch-size", "2", "--dry-run")
    assert finished.code == 2
    assert "batch_size 2 (--batch-size): the global batch must have a sample" in finished.stderr
    (folder / "few.yaml").write_text("kind: local\nmax_restarts: 1\nmin_gpus: 3\n")
    finished = launch(folder, "--cluster", "few.yaml", "--gpus", "2", "--dry-run")
    assert "min_gpus 3 (few.yaml:3): more than the 2 workers of the job" in finished.stderr


def test_the_json_of_several_strategies_is_a_list(tmp_path: Path) -> None:
    arguments = ("--strategies", "ddp,mirrored", "--device", "cpu", "--gpus", "2", "--json")
    finished = launch(tmp_path, *arguments, "--dry-run", command="compare")
    assert finished.code == 0, finished.stderr
    jobs = json.loads(finished.stdout)
    assert [job["settings"]["strategy"]["value"] for job in jobs] == ["ddp", "mirrored"]
    assert [len(job["workers"]) for job in jobs] == [2, 1]


@pytest.mark.parametrize(
    ("name", "value", "cuda", "shown"),
    [
        ("MASTER_PORT", "0", False, "(a free port, at the start)"),
        ("MASTER_PORT", "29500", False, "29500"),
        ("NCCL_SOCKET_IFNAME", "", True, "(the interface of its address, at the start)"),
        ("NCCL_SOCKET_IFNAME", "lo", False, "lo"),
        ("CUDA_VISIBLE_DEVICES", "", True, "(those that Ray gives, at the start)"),
        ("CUDA_VISIBLE_DEVICES", "", False, ""),
        ("CUDA_VISIBLE_DEVICES", "0,1", True, "0,1"),
    ],
)
def test_what_is_known_at_the_start_only_says_so(
    name: str, value: str, cuda: bool, shown: str
) -> None:
    plan = WorkerPlan(
        rank=3,
        slot=Slot(host="here", host_index=0, local_rank=0),
        argv=("x",),
        env={name: value},
        log_path=Path("log"),
        events_path=Path("events"),
        result_path=Path("result"),
    )
    assert environment(plan, cuda=cuda) == f"Worker 3, variables\n  {name}={shown}"
