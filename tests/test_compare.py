"""``launcher compare``: the same training under several strategies, one table."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from launcher.compare import largest_difference
from tests.command import Finished, launch

QUICK = ("--model", "softmax", "--steps", "40", "--device", "cpu", "--gpus", "2", "--no-baseline")


def compare(folder: Path, strategies: str, *arguments: str, **variables: str) -> Finished:
    return launch(folder, "--strategies", strategies, *arguments, command="compare", **variables)


def test_one_table_and_one_json_tell_of_all_strategies(tmp_path: Path) -> None:
    finished = compare(tmp_path, "mirrored,ddp", *QUICK, "--json")
    assert finished.code == 0, finished.stderr
    compared = json.loads(finished.stdout)
    assert compared == json.loads((finished.folder / "compare.json").read_text())
    assert [one["strategy"] for one in compared] == ["mirrored", "ddp"]
    assert [one["report"]["strategy"] for one in compared] == ["mirrored", "ddp"]
    assert compared[0]["curve_difference"] == 0
    assert 0 < compared[1]["curve_difference"] < 1e-4
    accuracies = {round(one["report"]["epochs"][-1]["test_accuracy"], 3) for one in compared}
    assert len(accuracies) == 1
    lines = finished.stderr.splitlines()
    heading = next(line for line in lines if line.split() == ["mirrored", "ddp"])
    assert lines[lines.index(heading) + 1].split() == [
        *("2", "logical", "CPU", "devices"),
        *("2", "CPU", "workers"),
    ]
    rows = ("test accuracy", "samples/s", "first step", "exchange", "loss curve")
    assert all(any(line.strip().startswith(row) for line in lines) for row in rows)


def test_a_failed_strategy_is_told_and_the_others_run(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import os, sys\nif 'RANK' in os.environ: sys.modules['torch'] = None\n"
    )
    finished = compare(tmp_path, "ddp,mirrored", *QUICK, PYTHONPATH=str(tmp_path))
    assert finished.code == 1
    assert " failed first: exit code 1" in finished.stdout
    compared = json.loads((finished.folder / "compare.json").read_text())
    assert [one["report"]["status"] for one in compared] == ["failed", "completed"]
    assert [one["curve_difference"] for one in compared] == [None, 0]


@pytest.mark.parametrize(
    ("strategies", "arguments", "said"),
    [
        ("ddp,magic", (), "--strategies magic: not known; there are ddp, mirrored, horovod"),
        ("ddp,ddp", (), "--strategies ddp,ddp: name each strategy once"),
        ("ddp", ("--strategy", "ddp"), "--strategy ddp: compare runs the built-in training"),
        ("ddp", ("train.py",), "compare runs the built-in training"),
        ("ddp", ("--model", "resnet"), "model resnet (--model): not known"),
    ],
)
def test_a_mistake_is_a_sentence(
    tmp_path: Path, strategies: str, arguments: tuple[str, ...], said: str
) -> None:
    finished = compare(tmp_path, strategies, *arguments)
    assert finished.code == 2
    assert said in finished.stderr
    assert not finished.folder.exists()


def test_a_dry_run_tells_of_all_and_starts_nothing(tmp_path: Path) -> None:
    finished = compare(tmp_path, "ddp,mirrored", *QUICK, "--dry-run")
    assert finished.code == 0, finished.stderr
    assert finished.stdout.count("Decided: ") == 2
    assert not finished.folder.exists()


@pytest.mark.parametrize(
    ("one", "other", "largest"),
    [
        ([2.0, 1.0], [2.0, 1.0], 0.0),
        ([2.0, 1.0, 4.0], [2.0, 1.1], 0.1),
        ([1.0] * 200 + [5.0], [1.0] * 201, 0.0),
        ([], [1.0], None),
    ],
)
def test_the_difference_of_curves_is_relative_and_of_the_first_steps(
    one: list[float], other: list[float], largest: float | None
) -> None:
    assert largest_difference(one, other) == (None if largest is None else pytest.approx(largest))
