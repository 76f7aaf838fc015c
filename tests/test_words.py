"""--wait may stand alone; nothing else of a command's words is changed."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from launcher.cli import parsed, training
from launcher.job import Given
from launcher.words import flags_of, with_values

FLAGS = {"--json", "--quiet", "-q"}


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--wait"], ["--wait=inf"]),
        (["--wait", "--gpus", "4"], ["--wait=inf", "--gpus", "4"]),
        (["--gpus", "4", "--wait"], ["--gpus", "4", "--wait=inf"]),
        (["--wait", "train.py"], ["--wait=inf", "train.py"]),
        (["--wait", "-1"], ["--wait=inf", "-1"]),
        (["--json", "--wait", "-q"], ["--json", "--wait=inf", "-q"]),
        (["--wait", "--wait", "5"], ["--wait=inf", "--wait", "5"]),
    ],
)
def test_a_wait_without_a_number_has_no_end(words: list[str], expected: list[str]) -> None:
    assert with_values(words, FLAGS) == expected


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["--wait", "30"],
        ["--wait", "0.5", "--json", "train.py"],
        ["--wait=30"],
        ["--gpus", "--wait"],
        ["train.py", "--wait"],
        ["--json", "train.py", "--wait"],
        ["--gpus", "2", "train.py", "--wait", "--lr", "1"],
        ["--gpus=2", "./run", "--wait"],
        ["--", "--wait"],
    ],
    ids=" ".join,
)
def test_all_other_words_stay_as_they_are(words: list[str]) -> None:
    assert with_values(words, FLAGS) == words


def test_the_words_that_are_given_are_not_changed() -> None:
    words: Sequence[str] = ["--wait"]
    with_values(words, FLAGS)
    assert words == ["--wait"]


def test_the_trainings_flags_are_those_without_a_value() -> None:
    flags = flags_of(training())
    assert {"--json", "-q", "--quiet", "--scale-lr", "--no-scale-lr", "--help"} <= flags
    assert not {"--wait", "--gpus", "-n", "--cluster"} & flags


@pytest.mark.parametrize(
    ("words", "given"),
    [
        (["--wait"], {"wait": Given(float("inf"), "--wait")}),
        (["--wait", "9"], {"wait": Given(9.0, "--wait")}),
        (
            ["--no-baseline", "--wait", "-n", "2"],
            {
                "wait": Given(float("inf"), "--wait"),
                "baseline": Given(False, "--baseline"),
                "gpus": Given(2, "--gpus"),
            },
        ),
        (["train.py", "--wait"], {"script": Given(["train.py", "--wait"], "--script")}),
    ],
)
def test_the_command_line_is_read_so(words: list[str], given: dict[str, Given]) -> None:
    assert parsed(words, None) == given
