"""Cores: affinity, cgroup quotas and NUMA nodes are all counted in."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from clusters.cores import numa_cpus, parse_cpus, usable_cores


@pytest.fixture(autouse=True)
def eight_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))


def quota_v2(folder: Path, text: str) -> Path:
    (folder / "cpu.max").write_text(f"{text}\n")
    return folder


def quota_v1(folder: Path, quota: int, period: int) -> Path:
    (folder / "cpu").mkdir()
    (folder / "cpu/cpu.cfs_quota_us").write_text(f"{quota}\n")
    (folder / "cpu/cpu.cfs_period_us").write_text(f"{period}\n")
    return folder


def nodes(folder: Path, *cpulists: str) -> Path:
    for node, cpulist in enumerate(cpulists):
        (folder / f"node{node}").mkdir()
        (folder / f"node{node}" / "cpulist").write_text(f"{cpulist}\n")
    return folder


@pytest.mark.parametrize(
    ("text", "cpus"),
    [
        ("0", (0,)),
        ("0-3", (0, 1, 2, 3)),
        ("0-1,4,6-7\n", (0, 1, 4, 6, 7)),
        ("", ()),
        ("\n", ()),
    ],
)
def test_a_kernel_list_is_parsed(text: str, cpus: tuple[int, ...]) -> None:
    assert parse_cpus(text) == cpus


def test_without_a_quota_the_affinity_counts(tmp_path: Path) -> None:
    assert usable_cores(tmp_path) == 8


@pytest.mark.parametrize(
    ("text", "cores"),
    [
        ("200000 100000", 2),
        ("250000 100000", 2),
        ("50000 100000", 1),
        ("1600000 100000", 8),
        ("max 100000", 8),
        ("garbage", 8),
    ],
)
def test_a_quota_of_cgroup_v2_limits_the_cores(tmp_path: Path, text: str, cores: int) -> None:
    assert usable_cores(quota_v2(tmp_path, text)) == cores


@pytest.mark.parametrize(
    ("quota", "cores"), [(300_000, 3), (350_000, 3), (50_000, 1), (1_600_000, 8), (-1, 8)]
)
def test_a_quota_of_cgroup_v1_limits_the_cores(tmp_path: Path, quota: int, cores: int) -> None:
    assert usable_cores(quota_v1(tmp_path, quota, 100_000)) == cores


def test_the_smaller_quota_counts(tmp_path: Path) -> None:
    quota_v2(tmp_path, "500000 100000")
    assert usable_cores(quota_v1(tmp_path, 300_000, 100_000)) == 3


def test_each_numa_node_has_its_processors(tmp_path: Path) -> None:
    found = numa_cpus(nodes(tmp_path, "0-1,4-5", "2-3,6-7"))
    assert found == {0: (0, 1, 4, 5), 1: (2, 3, 6, 7)}


def test_processors_outside_the_affinity_are_left_out(tmp_path: Path) -> None:
    assert numa_cpus(nodes(tmp_path, "0-3", "4-11")) == {0: (0, 1, 2, 3), 1: (4, 5, 6, 7)}


@pytest.mark.parametrize(
    "cpulists", [("0-7",), ("0-7", ""), ("0-7", "8-15"), ("0-7", "?"), ()], ids=str
)
def test_one_usable_node_is_no_reason_to_bind(tmp_path: Path, cpulists: tuple[str, ...]) -> None:
    assert numa_cpus(nodes(tmp_path, *cpulists)) == {}
