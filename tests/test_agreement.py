"""What is said of nodes that would not train the same."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from launcher.agreement import disagreement, python_note
from strategies.facts import Facts

CODE, OTHER_CODE = "c0de" * 16, "0dd1" * 16
DATA, OTHER_DATA = "da7a" * 16, "0dd2" * 16
FACTS = Facts(
    python="3.11.7",
    platform="linux-x86_64",
    versions={"torch": "2.13.0", "ray": "2.60.0"},
    missing=(),
    extra="ddp",
    problem=None,
    code=CODE,
    folder=None,
    data=DATA,
    data_error=None,
)
OLD_TORCH = {"torch": "2.12.0", "ray": "2.60.0"}


def nodes(*changes: dict[str, Any]) -> list[tuple[str, Facts]]:
    """A node for each, which differs so from FACTS."""
    return [
        (f"gpu-{number} (10.0.0.{number})", replace(FACTS, **change))
        for number, change in enumerate(changes, start=1)
    ]


@pytest.mark.parametrize("count", [1, 2, 4])
def test_nodes_that_are_alike_agree(count: int) -> None:
    alike = nodes(*[{}] * count)
    assert disagreement(alike, CODE) is None
    assert python_note(alike) is None


def test_the_minority_is_named_with_both_values() -> None:
    assert disagreement(nodes({}, {}, {"versions": OLD_TORCH}, {}), CODE) == (
        "torch is 2.12.0 on gpu-3 (10.0.0.3) and 2.13.0 on the other 3 nodes: install the same"
    )


def test_the_minority_is_named_where_it_comes_first() -> None:
    assert disagreement(nodes({"versions": OLD_TORCH}, {}, {}), CODE) == (
        "torch is 2.12.0 on gpu-1 (10.0.0.1) and 2.13.0 on the other 2 nodes: install the same"
    )


def test_on_a_tie_the_later_is_the_odd_one() -> None:
    assert disagreement(nodes({}, {"versions": OLD_TORCH}), CODE) == (
        "torch is 2.12.0 on gpu-2 (10.0.0.2) and 2.13.0 on gpu-1 (10.0.0.1): install the same"
    )


def test_several_odd_values_are_all_told() -> None:
    odd = {"versions": {"torch": "2.11.0", "ray": "2.60.0"}}
    old = {"versions": OLD_TORCH}
    assert disagreement(nodes({}, {}, {}, old, odd, old), CODE) == (
        "torch is 2.12.0 on gpu-4 (10.0.0.4) and gpu-6 (10.0.0.6), 2.11.0 on gpu-5 (10.0.0.5) "
        "and 2.13.0 on the other 3 nodes: install the same"
    )


def test_what_is_not_there_is_missing_and_of_no_version() -> None:
    bare = {"versions": {"ray": "2.60.0"}, "missing": ("torch", "numpy")}
    assert disagreement(nodes({}, bare), CODE) == (
        "gpu-2 (10.0.0.2) lacks torch and numpy: pip install 'troika-launcher[ddp]' there"
    )


def test_nodes_that_lack_the_same_are_told_in_one_line() -> None:
    bare = {"versions": {}, "missing": ("tensorflow",), "extra": "mirrored"}
    assert disagreement(nodes(bare, bare, bare), CODE) == (
        "gpu-1 (10.0.0.1), gpu-2 (10.0.0.2) and gpu-3 (10.0.0.3) lack tensorflow: "
        "pip install 'troika-launcher[mirrored]' there"
    )


@pytest.mark.parametrize("field", ["problem", "data_error"])
def test_a_nodes_own_problem_is_told_as_it_says_it(field: str) -> None:
    change = {field: "/data is not a folder", "data": None}
    assert disagreement(nodes({}, change), CODE) == "gpu-2 (10.0.0.2): /data is not a folder"


def test_other_data_are_told_with_their_folder() -> None:
    alike = {"folder": "/data/mnist"}
    assert disagreement(nodes(alike, alike, {**alike, "data": OTHER_DATA}), CODE) == (
        "the training data in /data/mnist differ on gpu-3 (10.0.0.3) (0dd20dd20dd2) from those on "
        "the other 2 nodes (da7ada7ada7a): copy the same files to all"
    )


def test_other_packaged_data_mean_another_package() -> None:
    assert disagreement(nodes({}, {"data": OTHER_DATA}), CODE) == (
        "the packaged training data differ on gpu-2 (10.0.0.2) (0dd20dd20dd2) from those on "
        "gpu-1 (10.0.0.1) (da7ada7ada7a): install the same troika-launcher"
    )


def test_code_is_compared_with_the_launchers() -> None:
    assert disagreement(nodes({"code": OTHER_CODE}, {"code": OTHER_CODE}, {}), CODE) == (
        "Troika's code on gpu-1 (10.0.0.1) and gpu-2 (10.0.0.2) is not the launcher's "
        "(0dd10dd10dd1, here c0dec0dec0de): install the troika-launcher there that is here"
    )


def test_python_has_to_be_of_one_minor_release() -> None:
    pythons = nodes({"python": "3.10.4"}, {"python": "3.11.7"}, {"python": "3.11.9"})
    assert disagreement(pythons, CODE) == (
        "Python is 3.10 on gpu-1 (10.0.0.1) and 3.11 on the other 2 nodes: install 3.11 on all"
    )
    assert python_note(pythons) is None


def test_another_patch_release_of_python_is_only_noted() -> None:
    pythons = nodes({}, {"python": "3.11.9"}, {})
    assert disagreement(pythons, CODE) is None
    assert python_note(pythons) == (
        "note: Python is 3.11.9 on gpu-2 (10.0.0.2) and 3.11.7 on the other 2 nodes"
    )


def test_nodes_have_to_be_of_one_platform() -> None:
    assert disagreement(nodes({}, {"platform": "linux-aarch64"}), CODE) == (
        "the platform is linux-aarch64 on gpu-2 (10.0.0.2) and linux-x86_64 on gpu-1 (10.0.0.1): "
        "choose nodes of one platform"
    )


def test_all_that_is_wrong_is_told_a_line_each() -> None:
    bad = {
        "python": "3.12.1",
        "platform": "linux-aarch64",
        "versions": {"torch": "2.12.0", "ray": "2.59.0"},
        "missing": ("safetensors",),
        "problem": "Horovod was built for PyTorch 2.11.0",
        "code": OTHER_CODE,
        "data": OTHER_DATA,
    }
    text = disagreement(nodes({}, {}, bad), CODE)
    assert text is not None
    words = "safetensors", "Horovod", "platform", "Python", "torch", "ray", "code", "data"
    lines = text.splitlines()
    assert len(lines) == len(words)
    for line, word in zip(lines, words, strict=True):
        assert word in line
        assert "gpu-3 (10.0.0.3)" in line


def test_of_a_single_node_only_what_it_lacks_matters() -> None:
    single = nodes({"missing": ("torch",), "data": None, "data_error": "/data has neither"})
    assert disagreement(single, CODE) == (
        "gpu-1 (10.0.0.1) lacks torch: pip install 'troika-launcher[ddp]' there\n"
        "gpu-1 (10.0.0.1): /data has neither"
    )
