"""Exports that fail or are stopped: what is said, and that nothing is left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from launcher.errors import UserError
from strategies.mnist.checkpoint import save
from tests.command import COMMAND, finish, wait_until
from tests.exports import exported, make_run

EXPORT = (*COMMAND, "export", "--to", "onnx", "run")


def test_mistakes_are_sentences(tmp_path: Path) -> None:
    make_run(tmp_path / "run")
    there = tmp_path / "there.onnx"
    there.touch()
    for run, to, out, said in (
        ("run", "coreml", None, "--to coreml: not known; there are torch, keras, onnx, torchscr"),
        ("nothing", "onnx", None, "nothing holds no checkpoint"),
        ("run", "onnx", there, f"--out {there}: exists already; name another file"),
        ("run", "onnx", there / "x.onnx", "cannot be written to: Not a directory"),
        ("run", "keras", tmp_path / "x.h5", "the name of a keras file has to end in .keras"),
    ):
        with pytest.raises(UserError) as raised:
            exported(tmp_path / run, to, out)
        assert said in str(raised.value)


def test_a_second_export_overwrites_nothing(tmp_path: Path) -> None:
    make_run(tmp_path / "run")
    (tmp_path / "run/export").mkdir()
    (tmp_path / "run/export/softmax.onnx").touch()
    with pytest.raises(UserError, match=r"softmax\.onnx exists already; remove it"):
        exported(tmp_path / "run", "onnx")


def test_a_diverged_training_is_not_exported(tmp_path: Path) -> None:
    checkpoint = make_run(tmp_path / "run")
    checkpoint.weights["dense1.bias"][3] = np.nan
    save(checkpoint, tmp_path / "run/checkpoints")
    with pytest.raises(UserError, match=r"step-00000007\.safetensors has weights that are not f"):
        exported(tmp_path / "run", "onnx")


def test_a_missing_package_is_named_with_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_run(tmp_path / "run")
    monkeypatch.setitem(sys.modules, "ai_edge_litert", None)
    with pytest.raises(UserError, match=r"needs ai_edge_litert, .*troika-launcher\[tflite\]'"):
        exported(tmp_path / "run", "tflite")


def pretend_runtime(folder: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """Puts an onnxruntime of ours before the real one, in the processes to be started."""
    folder.mkdir()
    (folder / "onnxruntime.py").write_text(text)
    monkeypatch.setenv("PYTHONPATH", str(folder), prepend=os.pathsep)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "import numpy as np\n"
            "class InferenceSession:\n"
            "    def __init__(self, path, providers): pass\n"
            "    def run(self, names, inputs):\n"
            "        return [np.full((len(inputs['pixels']), 10), 99, np.float32)]\n",
            "the onnx file does not compute what the checkpoint does",
        ),
        ("raise ImportError('built for another machine')", "ImportError: built for another mach"),
        ("import os; os.kill(os.getpid(), 9)", "the process to verify the file was killed by SIGK"),
    ],
    ids=["wrong", "broken", "killed"],
)
def test_what_cannot_be_verified_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, said: str
) -> None:
    make_run(tmp_path / "run")
    pretend_runtime(tmp_path / "runtime", monkeypatch, text)
    told = exported(tmp_path / "run", "onnx")
    assert told.code != 0
    assert said in told.text
    assert "nothing was written" in told.text
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["checkpoints"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_an_export_that_is_stopped_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    make_run(tmp_path / "run")
    waits = "import pathlib, time\npathlib.Path('ready').touch()\ntime.sleep(600)\n"
    pretend_runtime(tmp_path / "runtime", monkeypatch, waits)
    process = subprocess.Popen(
        EXPORT,
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_until((tmp_path / "ready").exists, "the verification")
    assert list((tmp_path / "run").rglob("model.onnx"))
    process.send_signal(number)
    finished = finish(process, tmp_path)
    wait_until(lambda: len(list((tmp_path / "run").iterdir())) == 1, "the folder's removal")
    if number == signal.SIGKILL:
        assert finished.code == -number
    else:
        assert finished.code == 128 + number
        assert f"stopped by {number.name}; nothing was written" in finished.stdout
