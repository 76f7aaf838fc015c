"""The command line: what it prints, where, and how it ends; a mistake gets a sentence."""

from __future__ import annotations

import json
import os
import pty
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from strategies.mnist.data import FILES
from tests.command import COMMAND, launch, train
from tests.small_mnist import write_small_mnist

QUICK = ("--model", "softmax", "--steps", "2", "--device", "cpu")


@pytest.mark.parametrize(
    ("arguments", "variables", "said"),
    [
        (("--model", "resnet"), {}, "model resnet (--model): not known; there are lenet, mlp"),
        (
            ("--strategy", "magic"),
            {},
            "strategy magic (--strategy): not known; there are ddp, mirrored, horovod",
        ),
        ((), {"TROIKA_EPOCHS": "0"}, "epochs 0 (TROIKA_EPOCHS): must be 1 or more"),
        (("-n", "0"), {}, "gpus 0 (--gpus): must be 1 or more"),
        (("-n", "5", "--batch-size", "4"), {}, "batch_size 4 (--batch-size): the global batch"),
        (("--resume", "nothing"), {}, "--resume nothing: nothing holds no checkpoint"),
        (("--data-dir", "nothing"), {}, "/nothing is not a folder"),
        (("--device", "cpu", "--precision", "tf32"), {}, "only GPUs have it"),
        (("--lr", "1", "x.py"), {}, "--lr: only for the built-in training"),
        (("--cluster", "lab"), {}, "lab: there is no such file, and no such example; there are"),
        (("--address", "http://head:8265"), {}, "launcher submit --address http://head:8265"),
        (("--cluster", "local", "--address", "h:1"), {}, "only a cluster of kind ray has an addre"),
        (("--min-gpus", "1"), {}, "nothing goes on without --max-restarts"),
        ((), {"TROIKA_MAX_RESTARTS": "-1"}, "max_restarts -1 (TROIKA_MAX_RESTARTS): must be 0"),
    ],
)
def test_a_mistake_is_a_sentence_and_exit_code_2(
    tmp_path: Path, arguments: tuple[str, ...], variables: dict[str, str], said: str
) -> None:
    finished = launch(tmp_path, *arguments, **variables)
    assert finished.code == 2
    assert said in finished.stderr
    assert "Traceback" not in finished.stderr
    assert not finished.folder.exists()


def test_a_value_that_is_no_number_is_told_with_flag_and_variable(tmp_path: Path) -> None:
    finished = launch(tmp_path, TROIKA_EPOCHS="many")
    assert finished.code == 2
    assert "--epochs" in finished.stderr
    assert "TROIKA_EPOCHS" in finished.stderr


def test_a_corrupt_file_is_named_before_anything_starts(tmp_path: Path) -> None:
    data = write_small_mnist(tmp_path / "data", 20, 10)
    images = data / FILES["train", "images"]
    images.write_bytes(images.read_bytes()[:-1])
    finished = launch(tmp_path, "--data-dir", str(data), "--device", "cpu")
    assert finished.code == 2
    assert f"{images} has {16 + 20 * 784 - 1} bytes" in finished.stderr
    assert not finished.folder.exists()


def test_a_folder_in_use_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run/notes").touch()
    finished = launch(tmp_path, *QUICK)
    assert finished.code == 2
    assert "is not an empty folder" in finished.stderr


def test_a_strategy_whose_package_is_missing_says_how_to_install_it(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("import sys; sys.modules['torch'] = None")
    finished = launch(tmp_path, *QUICK, PYTHONPATH=f"{tmp_path}:{Path.cwd()}")
    assert finished.code == 2
    assert "strategy ddp needs torch" in finished.stderr
    assert "pip install 'troika-launcher[ddp]'" in finished.stderr


@pytest.fixture
def without_horovod(tmp_path: Path) -> str:
    """A PYTHONPATH on which Horovod's package is an empty one, as pip leaves it without a build."""
    (tmp_path / "found_first/horovod").mkdir(parents=True)
    (tmp_path / "found_first/horovod/__init__.py").touch()
    return f"{tmp_path / 'found_first'}:{Path.cwd()}"


def test_without_horovod_the_command_that_builds_it_is_named(
    tmp_path: Path, without_horovod: str
) -> None:
    finished = launch(tmp_path, "--strategy", "horovod", *QUICK, PYTHONPATH=without_horovod)
    assert finished.code == 2
    assert "strategy horovod: Horovod for PyTorch is not installed: " in finished.stderr
    assert "python -m launcher setup horovod" in finished.stderr
    assert not finished.folder.exists()


def test_on_a_terminal_the_build_is_offered(tmp_path: Path, without_horovod: str) -> None:
    command = [*COMMAND, "--strategy", "horovod", *QUICK, "--out", str(tmp_path / "run")]
    terminal = Terminal(command, PYTHONPATH=without_horovod)
    terminal.read_until(b"Set up horovod now? [y/N]: ")
    terminal.write(b"n\n")
    terminal.read_all()
    assert terminal.wait() == 2
    assert not (tmp_path / "run").exists()


def test_what_cannot_be_set_up_is_told_with_what_can(tmp_path: Path) -> None:
    done = subprocess.run(
        [*COMMAND, "setup", "magic"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (
        2,
        "error: setup magic: not known; there is horovod\n",
    )


def test_json_goes_to_stdout_alone(tmp_path: Path) -> None:
    finished = train(tmp_path, *QUICK, "--json")
    assert json.loads(finished.stdout) == finished.report
    assert "softmax" in finished.stderr


def test_quiet_prints_nothing(tmp_path: Path) -> None:
    finished = train(tmp_path, *QUICK, "--quiet")
    assert (finished.stdout, finished.stderr) == ("", "")


def test_cpu_workers_are_told_in_the_first_line(tmp_path: Path) -> None:
    arguments = [a for a in QUICK if a not in ("--device", "cpu")]
    finished = train(tmp_path, *arguments, "-n", "2", CUDA_VISIBLE_DEVICES="")
    first = finished.stdout.splitlines()[0]
    assert first.startswith("ddp: softmax, global batch 100 on ")
    assert "2 CPU workers" in first


class Terminal:
    """A command on a terminal of its own; ``shown`` is what it has written there."""

    def __init__(self, command: Sequence[str], **variables: str) -> None:
        self._ours, theirs = pty.openpty()
        self._process = subprocess.Popen(
            command,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env={**os.environ, "TERM": "xterm", "COLUMNS": "120", **variables},
        )
        os.close(theirs)
        self.shown = b""

    def read_until(self, text: bytes) -> None:
        while text not in self.shown:
            self.shown += os.read(self._ours, 4096)

    def read_all(self) -> None:
        try:
            while chunk := os.read(self._ours, 4096):
                self.shown += chunk
        except OSError:
            pass  # the terminal's other end is closed: that is how Linux says so

    def write(self, text: bytes) -> None:
        os.write(self._ours, text)

    def wait(self) -> int:
        os.close(self._ours)
        return self._process.wait()


def test_a_terminal_gets_a_progress_bar(tmp_path: Path) -> None:
    command = [*COMMAND, "--out", str(tmp_path / "run"), "--model", "mlp", "--epochs", "1"]
    terminal = Terminal([*command, "--device", "cpu"])
    terminal.read_all()
    assert terminal.wait() == 0
    assert b"epoch 1/1" in terminal.shown
    assert b"samples/s" in terminal.shown
    assert "━".encode() in terminal.shown


def test_the_same_command_runs_as_troika(tmp_path: Path) -> None:
    program = Path(COMMAND[0]).with_name("troika")
    done = subprocess.run(
        [program, "--version"], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("troika-launcher ")
