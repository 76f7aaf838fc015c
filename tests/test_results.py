"""Results: the failing rank's own traceback is found, and the cause before its consequences."""

from __future__ import annotations

from pathlib import Path

import pytest

from clusters.base import Ended, Slot, WorkerPlan
from launcher.results import (
    WorkerResult,
    describe_end,
    describe_failure,
    first_failure,
    log_tail,
    lost_a_peer,
    traceback_of,
)

PLAIN = """\
Traceback (most recent call last):
  File "train.py", line 3, in <module>
    step()
ValueError: bad batch
"""
DIRECT = "\nThe above exception was the direct cause of the following exception:\n\n"
DURING = "\nDuring handling of the above exception, another exception occurred:\n\n"
SECOND = PLAIN.replace("ValueError: bad batch", "RuntimeError: worse")
MANY_LINES = PLAIN.replace("bad batch", "shapes differ:\n  left: 3\nright: 4")
LOST_PEER = PLAIN.replace(
    "ValueError: bad batch", "RuntimeError: [pair.cc:534] Connection closed by peer [127.0.0.1]:9"
)
LOST_NCCL_PEER = PLAIN.replace(
    "ValueError: bad batch",
    "torch.distributed.DistBackendError: NCCL error in: NCCLUtils.hpp:268, "
    "remote process exited or there was a network error, NCCL version 2.21.5\n"
    "ncclRemoteError: A call failed possibly due to a network error.\nLast error:\n"
    "socketProgress: Connection closed by remote peer here<41234>",
)
NCCL_WARNING = "[rank0]:[W1012 10:00:00 ProcessGroupNCCL.cpp:1] Warning: destroy_process_group()\n"
LEAK_WARNING = """\
/lib/resource_tracker.py:254: UserWarning: resource_tracker: 1 leaked semaphore object
  warnings.warn('resource_tracker: 1 leaked semaphore object')
"""
IGNORED = f"Exception ignored in: <function Queue.__del__ at 0x7f>\n{SECOND}"


def result(
    folder: Path,
    *,
    rank: int = 0,
    log: str = "",
    code: int = 1,
    time: float = 0,
    evidence: str = "",
) -> WorkerResult:
    path = folder / f"rank-{rank}.log"
    path.write_text(log)
    plan = WorkerPlan(
        rank=rank,
        slot=Slot(host="here", host_index=0, local_rank=rank),
        argv=("train",),
        env={},
        log_path=path,
        events_path=path,
        result_path=path,
    )
    ended = Ended(code=code, time=time, pid=42, evidence=evidence)
    return WorkerResult(plan=plan, ended=ended, stopped_by_us=False)


@pytest.mark.parametrize("before", ["", "epoch 1\n", SECOND + "caught, going on\n"])
@pytest.mark.parametrize(
    "traceback",
    [PLAIN, PLAIN + DIRECT + SECOND, SECOND + DURING + PLAIN + DURING + SECOND, MANY_LINES],
    ids=["plain", "caused", "twice chained", "message of many lines"],
)
def test_the_last_traceback_of_a_log_is_found_whole(before: str, traceback: str) -> None:
    assert traceback_of(before + traceback) == traceback.rstrip("\n")


@pytest.mark.parametrize("log", ["", "epoch 1\nValueError: told, not raised\n"])
def test_a_log_without_a_traceback_has_none(log: str) -> None:
    assert traceback_of(log) == ""


@pytest.mark.parametrize(
    "noise",
    ["\nsome words\n", "\nusage:\n  train FILE\n", LEAK_WARNING, IGNORED, "\n" + IGNORED],
    ids=["words", "indented words", "leak warning", "ignored", "ignored apart"],
)
def test_noise_behind_a_traceback_is_left_out(noise: str) -> None:
    assert traceback_of(PLAIN + noise) == PLAIN.rstrip("\n")


def test_torchs_prefixes_are_taken_off(tmp_path: Path) -> None:
    prefixed = "".join(f"[rank1]: {line}\n" for line in PLAIN.splitlines())
    log = log_tail(result(tmp_path, log=prefixed).plan.log_path)
    assert traceback_of(log) == PLAIN.rstrip("\n")


def test_only_the_end_of_a_long_log_is_read(tmp_path: Path) -> None:
    failed = result(tmp_path, log="first\n" + "x" * 100_000 + "\nlast\n")
    tail = log_tail(failed.plan.log_path)
    assert "first" not in tail
    assert tail.endswith("x\nlast\n")


def test_a_log_that_is_missing_is_empty(tmp_path: Path) -> None:
    assert log_tail(tmp_path / "none.log") == ""


@pytest.mark.parametrize(
    ("log", "lost"),
    [
        (LOST_PEER, True),
        (LOST_PEER.replace("closed by peer", "reset by peer"), True),
        (LOST_NCCL_PEER, True),
        (LOST_PEER + NCCL_WARNING, True),
        (PLAIN, False),
        ("Connection closed by peer\n" + PLAIN, False),
        ("Connection closed by peer\n", False),
        ("", False),
    ],
)
def test_a_lost_peer_is_told_by_the_exception_alone(tmp_path: Path, log: str, lost: bool) -> None:
    assert lost_a_peer(result(tmp_path, log=log)) is lost


@pytest.mark.parametrize(
    ("log", "code", "lost"),
    [
        ("terminate called: Connection closed by peer [10.0.0.2]\n", -6, True),
        ("[rank1] ncclRemoteError: a call failed on a remote process\n", -6, True),
        ("terminate called: Connection closed by peer [10.0.0.2]\n", 1, False),
        ("double free or corruption\n", -6, False),
    ],
)
def test_an_abort_that_complains_of_a_peer_is_a_consequence(
    tmp_path: Path, log: str, code: int, lost: bool
) -> None:
    assert lost_a_peer(result(tmp_path, log=log, code=code)) is lost


def test_the_earliest_failure_began_it(tmp_path: Path) -> None:
    late = result(tmp_path, rank=0, log=PLAIN, time=2)
    early = result(tmp_path, rank=1, log=PLAIN, time=1)
    fine = result(tmp_path, rank=2, code=0, time=0)
    assert first_failure([late, early, fine]) == early


@pytest.mark.parametrize(("log", "code"), [(PLAIN, 1), ("", -9)])
def test_a_cause_goes_before_an_earlier_lost_peer(tmp_path: Path, log: str, code: int) -> None:
    consequence = result(tmp_path, rank=0, log=LOST_PEER, time=1)
    cause = result(tmp_path, rank=1, log=log, code=code, time=2)
    assert first_failure([consequence, cause]) == cause


def test_where_all_lost_a_peer_the_earliest_began_it(tmp_path: Path) -> None:
    late = result(tmp_path, rank=0, log=LOST_PEER, time=2)
    early = result(tmp_path, rank=1, log=LOST_PEER, time=1)
    assert first_failure([late, early]) == early


def test_without_a_failure_none_began_it(tmp_path: Path) -> None:
    assert first_failure([result(tmp_path, code=0)]) is None


@pytest.mark.parametrize(
    ("code", "words"),
    [(3, "exit code 3"), (-9, "killed by SIGKILL"), (-40, "killed by signal 40")],
)
def test_an_end_is_told_in_words(code: int, words: str) -> None:
    assert describe_end(Ended(code=code, time=0, pid=None)) == words


def test_a_failure_is_described_with_its_place_log_and_traceback(tmp_path: Path) -> None:
    failed = result(tmp_path, rank=1, log="epoch 1\n" + PLAIN)
    assert describe_failure(failed).splitlines() == [
        "rank 1 failed first: exit code 1 (host here, pid 42)",
        f"its log: {failed.plan.log_path}",
        "the end of its log, but for the traceback:",
        "  epoch 1",
        "",
        *PLAIN.splitlines(),
    ]


def test_a_killed_worker_is_described_with_the_evidence_and_its_last_words(tmp_path: Path) -> None:
    lines = [f"step {number}" for number in range(30)]
    failed = result(tmp_path, log="\n".join(lines) + "\n\n", code=-9, evidence="the OOM killer")
    assert describe_failure(failed).splitlines() == [
        "rank 0 failed first: killed by SIGKILL (host here, pid 42)",
        "the OOM killer",
        f"its log: {failed.plan.log_path}",
        "the end of its log:",
        *(f"  {line}" for line in lines[20:]),
    ]


def test_an_empty_log_is_said_to_be_empty(tmp_path: Path) -> None:
    assert describe_failure(result(tmp_path, log="\n")).endswith("its log is empty")
