"""Exports: what a file computes in a process of its user's, and what the command says of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from rich.console import Console

from launcher.export import export
from launcher.output import Output
from strategies.mnist import data
from strategies.mnist.checkpoint import Checkpoint
from strategies.mnist.keras_model import from_keras
from strategies.mnist.models import MODELS
from strategies.mnist.torch_model import build
from tests.exports import HEADER, LR, MOMENTUM, Told, exported, make_run
from tests.small_mnist import write_small_mnist

# What the user's script has around the code that the command prints.
BEFORE = "import numpy as np\npixels = np.load('pixels.npy')\n"
AFTER = "\nnp.save('logits.npy', logits.detach() if hasattr(logits, 'detach') else logits)\n"
# Samples without weight have no gradient: what moves the weights is the momentum alone.
GO_ON = """
module.fit(pixels, np.zeros(3), sample_weight=np.zeros(3), batch_size=3, epochs=1)
np.savez('after.npz', *module.get_weights())
"""


def use(folder: Path, usage: str, pixels: NDArray[np.float32]) -> NDArray[np.float32]:
    """The logits that the printed code makes of ``pixels``, in a process that has only that."""
    np.save(folder / "pixels.npy", pixels)
    done = subprocess.run(
        [sys.executable, "-c", BEFORE + usage],
        cwd=folder,
        env={**os.environ, "ORT_DISABLE_TELEMETRY": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    logits: NDArray[np.float32] = np.load(folder / "logits.npy")
    return logits


def expected_logits(checkpoint: Checkpoint, pixels: NDArray[np.float32]) -> NDArray[np.float32]:
    model = MODELS[checkpoint.header.model]
    inputs = torch.from_numpy(pixels.reshape(-1, 784) * model.scale + model.shift).float()
    logits: NDArray[np.float32] = (
        build(model, checkpoint.weights, torch.device("cpu"))(inputs).detach().numpy()
    )
    return logits


def some_pixels() -> NDArray[np.float32]:
    return data.load().test.images[:3].astype(np.float32)


Export = Callable[[str, str], tuple[Path, Checkpoint, Told]]


@pytest.fixture(scope="module")
def an_export(tmp_path_factory: pytest.TempPathFactory) -> Export:
    """Exports a model to a format, once: its run's folder, its checkpoint, what was said.

    1,000 test images are two parts of different sizes: those that are compared at a time.
    """
    images = write_small_mnist(tmp_path_factory.mktemp("data") / "mnist", 20, 1000)

    @cache
    def make(model: str, to: str) -> tuple[Path, Checkpoint, Told]:
        run = tmp_path_factory.mktemp(f"{model}-{to}") / "run"
        checkpoint = make_run(run, replace(HEADER, model=model, data=str(images)))
        return run, checkpoint, exported(run, to)

    return make


@pytest.mark.parametrize(
    ("model", "to"),
    [
        *(("lenet", to) for to in ("torch", "keras", "onnx", "torchscript", "tflite")),
        *(("mlp", to) for to in ("torch", "keras", "onnx", "torchscript", "tflite")),
        *((model, "onnx") for model in ("mlp256", "softmax")),
    ],
)
def test_the_printed_code_gives_the_checkpoints_logits(
    tmp_path: Path, an_export: Export, model: str, to: str
) -> None:
    run, checkpoint, told = an_export(model, to)
    assert told.code == 0, told.text
    pixels = some_pixels()
    logits = use(tmp_path, told.usage + AFTER, pixels)
    np.testing.assert_allclose(logits, expected_logits(checkpoint, pixels), rtol=0, atol=1e-4)
    (file,) = (run / "export").iterdir()
    assert file.stem == model
    assert sorted(path.name for path in run.iterdir()) == ["checkpoints", "export"]


def test_the_command_says_file_size_accuracy_and_difference(tmp_path: Path) -> None:
    checkpoint = make_run(tmp_path / "run", replace(HEADER, model="lenet"))
    told = exported(tmp_path / "run", "onnx")
    path = tmp_path / "run/export/lenet.onnx"
    test = data.load().test
    classes = expected_logits(checkpoint, test.images.astype(np.float32)).argmax(1)
    accuracy = (classes == test.labels).mean()
    assert f"{path}: {path.stat().st_size:,} bytes, accuracy {accuracy:.2%}" in told.text
    assert "on the 10,000 test images of MNIST; the checkpoint's class for all, log" in told.text


@pytest.mark.parametrize("model", ["lenet", "mlp"])
def test_keras_goes_on_with_the_momentum(tmp_path: Path, an_export: Export, model: str) -> None:
    _, checkpoint, told = an_export(model, "keras")
    use(tmp_path, told.usage + AFTER + GO_ON, some_pixels())
    with np.load(tmp_path / "after.npz") as file:
        after = from_keras(MODELS[model], [file[f"arr_{n}"] for n in range(len(file.files))])
    for name, weights in checkpoint.weights.items():
        moved = weights - LR * MOMENTUM * checkpoint.momentum[name]
        np.testing.assert_allclose(after[name], moved, rtol=0, atol=1e-6, err_msg=name)


def test_one_checkpoint_of_several_and_a_name_of_ones_own(tmp_path: Path) -> None:
    make_run(tmp_path / "run")
    make_run(tmp_path / "run", replace(HEADER, step=9))
    first = tmp_path / "run/checkpoints/step-00000007.safetensors"
    told = exported(first, "onnx", tmp_path / "new/folder/mine.bin")
    assert told.code == 0, told.text
    assert "softmax at step 7" in told.text
    assert [path.name for path in (tmp_path / "new/folder").iterdir()] == ["mine.bin"]


def test_the_test_set_is_the_trainings_or_else_the_packaged_one(tmp_path: Path) -> None:
    folder = write_small_mnist(tmp_path / "data", 20, 10)
    make_run(tmp_path / "run", replace(HEADER, data=str(folder)))
    assert f"10 test images of {folder};" in exported(tmp_path / "run", "onnx").text
    folder.rename(tmp_path / "gone")
    again = exported(tmp_path / "run", "onnx", tmp_path / "again.onnx").text
    assert "10,000 test images of MNIST;" in again


def test_json_goes_to_stdout_and_quiet_says_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_run(tmp_path / "run")
    output = Output(people=Console(stderr=True), as_json=True, quiet=True)
    assert export(tmp_path / "run", "onnx", None, output) == 0
    printed = capsys.readouterr()
    told = json.loads(printed.out)
    assert printed.err == ""
    assert (told["to"], told["images"], told["reclassified"]) == ("onnx", 10_000, 0)
    assert told["bytes"] == Path(told["path"]).stat().st_size
