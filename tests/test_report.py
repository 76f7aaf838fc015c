"""The report: complete as JSON, readable as a table, every speed with its conditions."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from clusters.base import Ended, Slot, WorkerPlan
from launcher.report import FailureReport, Report, Restart, failure_report, losses_csv, measured
from launcher.results import WorkerResult
from launcher.table import render
from strategies.base import EpochMetrics, ScalingSamples, TrainMetrics

EPOCH = EpochMetrics(
    epoch=1,
    steps=600,
    train_loss=0.5,
    validation_loss=None,
    validation_accuracy=None,
    test_loss=0.25,
    test_accuracy=0.9312,
    seconds=1.5,
)
METRICS = TrainMetrics(
    epochs=[EPOCH],
    losses=[2.25, 0.5],
    first_loss_step=7,
    throughput=[40_000.0, 60_000.0, 50_000.0],
    first_step=1003.5,
    exchange="shared memory",
    device_name="Some CPU",
    threads=1,
    checkpoint="checkpoints/step-00000600.safetensors",
    versions={"torch": "2.6"},
    scaling=[
        ScalingSamples(batch=50, alone=[1.0], apart=[[1.0, 1.1]], together=[2.0]),
        ScalingSamples(batch=200, alone=[4.0], apart=[[4.0, 4.1]], together=[5.0]),
    ],
)


FIGURES = 8  # rows of the table that METRICS fill


def report(metrics: TrainMetrics = METRICS, conditions: str = "2 CPU workers") -> Report:
    filled: dict[str, Any] = measured(metrics, command_started=1000.0)
    return Report(
        version="1",
        status="completed",
        strategy="ddp",
        workers=2,
        device="cpu",
        conditions=conditions,
        host="here",
        hosts=["here"],
        cluster={"kind": "local"},
        settings={"script": ()},
        sources={"lr": "--lr"},
        command=["launcher", "--lr", "1"],
        seconds=9.0,
        **filled,
    )


def drawn(shown: Report, width: int = 100) -> str:
    text = StringIO()
    Console(file=text, width=width).print(render(shown))
    return text.getvalue()


def words(text: str) -> str:
    return " ".join(text.split())


def test_the_json_holds_every_field_and_the_schemas_number() -> None:
    read = json.loads(report().to_json())
    assert read["schema"] == 1
    assert read == json.loads(json.dumps(asdict(report())))


def test_a_report_without_figures_is_json_too() -> None:
    assert (
        json.loads(report(replace(METRICS, throughput=[], scaling=[])).to_json())["verdict"] == ""
    )


def test_writing_leaves_the_report_and_no_temporary_file(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    path.write_text("older")
    report().write(path)
    assert json.loads(path.read_text())["strategy"] == "ddp"
    assert list(tmp_path.iterdir()) == [path]


def test_the_throughput_is_the_median_of_the_windows_with_its_spread() -> None:
    assert asdict(report())["throughput"] == {
        "median": 50_000.0,
        "min": 40_000.0,
        "max": 60_000.0,
        "windows": 3,
    }


def test_the_time_to_the_first_step_counts_from_the_command() -> None:
    assert report().time_to_first_step_s == pytest.approx(3.5)


def test_the_scaling_keeps_the_jobs_batch_first() -> None:
    assert [point.batch for point in report().scaling] == [100, 400]


def test_the_losses_are_numbered_from_the_first_step_of_this_run() -> None:
    assert losses_csv(METRICS) == "step,loss\n7,2.25\n8,0.5\n"


def test_losses_of_32_bits_survive_the_csv() -> None:
    loss = 0.12345678955316544  # a float32
    assert (
        f"{float(losses_csv(replace(METRICS, losses=[loss])).split(',')[-1]):.8g}" == "0.12345679"
    )


@pytest.mark.parametrize("conditions", ["2 CPU workers", "9 CPU workers, oversubscribed"])
def test_the_conditions_stand_beside_every_figure_and_the_verdict(conditions: str) -> None:
    text = drawn(report(conditions=conditions))
    assert words(text).count(conditions) == FIGURES + 2  # and under the epochs


def test_a_table_of_gpus_has_no_conditions() -> None:
    assert "()" not in drawn(report(conditions=""))


@pytest.mark.parametrize(
    "text",
    [
        "first step 3.50 s",
        "throughput 50,000 samples/s; 40,000 to 60,000 in 3 windows",
        "efficiency 50% 50% to 50% in 1 rounds",
        "contention 0.95",
        "skew 0.95 rank 1 is the slowest",
        "communication 0.55",
        "speedup 1.60x with 200 a worker; efficiency 80% to 80%",
        "with batch 400 they are 1.6x (2 CPU workers).",
    ],
)
def test_the_table_shows_figures_and_verdict(text: str) -> None:
    assert text in words(drawn(report(), width=160))


@pytest.mark.parametrize("word", ["3.50 s", "50,000", "50%", "0.95", "0.55", "1.60x", "(2 CPU"])
def test_no_figure_is_cut_at_a_hundred_columns(word: str) -> None:
    text = drawn(report())
    assert word in text
    assert max(map(len, text.splitlines())) <= 100


def test_an_epoch_is_a_row_of_the_table() -> None:
    assert "1 0.5000 0.2500 93.12% 1.50" in words(drawn(report()))


def test_validation_has_columns_only_where_samples_were_held_out() -> None:
    held_out = replace(EPOCH, validation_loss=0.3, validation_accuracy=0.9)
    with_it = words(drawn(report(replace(METRICS, epochs=[held_out]))))
    assert "1 0.5000 0.3000 90.00% 0.2500 93.12% 1.50" in with_it
    assert "validation" not in drawn(report())


def test_a_report_of_a_script_has_no_epochs_and_no_verdict() -> None:
    bare = replace(report(), epochs=[], throughput=None, scaling=[], verdict="")
    assert "throughput" not in drawn(replace(bare, time_to_first_step_s=None))


@pytest.mark.parametrize(
    ("workers", "said"),
    [(2, ""), (1, "; from then on 1 instead of 2 workers")],
)
def test_a_restart_is_told_with_its_cause_and_the_workers_that_were_left(
    workers: int, said: str
) -> None:
    failure = FailureReport(
        rank=1, host="there", pid=7, end="killed by SIGKILL", evidence="", log="", traceback=""
    )
    restart = Restart(
        failure=failure, workers_before=2, workers=workers, hosts=["here"], resumed_from=None
    )
    text = words(drawn(replace(report(), restarts=[restart]), width=200))
    assert "restart" in text
    assert "rank 1" in text
    assert "killed by SIGKILL" in text
    assert said in text
    assert ("instead of" in text) is bool(said)


def test_a_failure_is_data_with_its_traceback(tmp_path: Path) -> None:
    log = tmp_path / "rank-1.log"
    log.write_text("noise\nTraceback (most recent call last):\n  File x\nValueError: bad\n")
    slot = Slot(host="here", host_index=0, local_rank=1)
    plan = WorkerPlan(
        rank=1, slot=slot, argv=(), env={}, log_path=log, events_path=log, result_path=log
    )
    ended = Ended(code=-9, time=1.0, pid=42, evidence="the OOM killer")
    failed = WorkerResult(plan=plan, ended=ended, stopped_by_us=False)
    assert asdict(failure_report(failed)) == {
        "rank": 1,
        "host": "here",
        "pid": 42,
        "end": "killed by SIGKILL",
        "evidence": "the OOM killer",
        "log": str(log),
        "traceback": "Traceback (most recent call last):\n  File x\nValueError: bad",
    }
