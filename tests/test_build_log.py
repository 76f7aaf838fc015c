"""A build's log: how far it is and what went wrong are read from it."""

from __future__ import annotations

from pathlib import Path

import pytest

from launcher.build_log import Lines, LogFollower, Step, problems, step_of


@pytest.mark.parametrize(
    ("line", "step"),
    [
        ("  [  9%] Building CXX object a/CMakeFiles/b.dir/c/pair.cc.o\n", Step(9, "pair.cc")),
        ("[100%] Linking CXX shared library ../mpi_lib_v2.so", Step(100, "mpi_lib_v2.so")),
        ("[ 50%] Built target gloo", None),
        ("-- Configuring done", None),
        ("", None),
    ],
)
def test_the_steps_of_a_build_are_read_from_makes_lines(line: str, step: Step | None) -> None:
    assert step_of(line) == step


def test_a_log_is_followed_while_it_grows(tmp_path: Path) -> None:
    log, now = tmp_path / "log", [0.0]
    said: list[str] = []
    follower = LogFollower(log, Lines(said.append, clock=lambda: now[0]))

    def look(seconds: float) -> None:
        now[0] = seconds
        follower.look()

    look(1)
    look(5)
    log.write_text("[  9%] Building CXX object b.dir/pair.cc.o\n[ 10%] Building CXX obj")
    look(6)
    look(10)
    with log.open("a") as file:
        file.write("ect b.dir/loop.cc.o\n")
    look(11)
    look(15)
    assert said == [
        "  0%     5 s  configuring",
        "  9%    10 s  pair.cc",
        " 10%    15 s  loop.cc",
    ]


def test_a_log_without_errors_gives_its_end() -> None:
    assert problems("".join(f"line {n}\n\n" for n in range(30))) == [
        f"line {n}" for n in range(20, 30)
    ]


def test_errors_are_told_once_and_in_short() -> None:
    assert problems("cc: error: x\n" * 3 + "error: " + "y" * 999) == [
        "cc: error: x",
        "error: " + "y" * 293,
    ]
