"""Checkpoints in other formats, one file a format. Stdlib only: the launching process reads it too.

Every format but ``torch`` is complete in itself: it maps pixels, float32 [n, 28, 28] of 0 to 255,
to logits, float32 [n, 10], for any n; the model's own scale and shift are inside. Adding a format
is one file with what ``base.Exporter`` asks for, and one entry here.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from strategies.mnist.export.base import Exporter


@dataclass(frozen=True, kw_only=True)
class Target:
    """A format to export to.

    ``requires``: names to import, looked up without importing them; ``install``: the extra that
    provides them; ``suffix``: of the file's name; ``suffix_matters``: whether the file cannot be
    loaded under a name that ends otherwise.
    """

    exporter: str
    suffix: str
    requires: tuple[str, ...]
    install: str
    suffix_matters: bool = False


TARGETS: dict[str, Target] = {
    "torch": Target(
        exporter="state_dict:StateDict", suffix=".pt", requires=("torch",), install="ddp"
    ),
    "keras": Target(
        exporter="keras_file:KerasFile",
        suffix=".keras",
        requires=("tensorflow", "keras"),
        install="mirrored",
        suffix_matters=True,
    ),
    "onnx": Target(
        exporter="onnx_graph:OnnxGraph",
        suffix=".onnx",
        requires=("onnx", "onnxruntime"),
        install="onnx",
    ),
    "torchscript": Target(
        exporter="script:Script", suffix=".torchscript", requires=("torch",), install="ddp"
    ),
    "tflite": Target(
        exporter="lite:Lite",
        suffix=".tflite",
        requires=("tensorflow", "keras", "ai_edge_litert"),
        install="tflite",
    ),
}


def load_exporter(name: str) -> Exporter:
    """What writes and reads the format ``name``. Raises KeyError."""
    module, _, attribute = TARGETS[name].exporter.partition(":")
    exporter: Exporter = getattr(import_module(f"{__name__}.{module}"), attribute)()
    return exporter
