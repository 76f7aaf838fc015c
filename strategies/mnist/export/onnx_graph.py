"""``onnx``: a graph of ONNX operators, written from the model's layers without a framework."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from strategies.mnist.checkpoint import Checkpoint
from strategies.mnist.data import CLASSES, SIDE
from strategies.mnist.models import MODELS, Conv, Dense, Layer, Model

if TYPE_CHECKING:
    from onnx import NodeProto

    from strategies.mnist.export.base import Classify, Floats

# Of ONNX 1.8 (2020): every operator here is in it, and what runs ONNX today runs it.
_OPSET, _IR = 13, 7


class OnnxGraph:
    """Input ``pixels``, output ``logits``, both with a free first dimension."""

    def write(self, checkpoint: Checkpoint, path: Path) -> None:
        import onnx
        from onnx import TensorProto, helper, numpy_helper

        model = MODELS[checkpoint.header.model]
        constants = {
            "scale": np.float32(model.scale),
            "shift": np.float32(model.shift),
            "channel": np.array([1], np.int64),
            **checkpoint.weights,
        }
        graph = helper.make_graph(
            _nodes(model),
            model.name,
            [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["n", SIDE, SIDE])],
            [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", CLASSES])],
            [numpy_helper.from_array(np.asarray(v), name) for name, v in constants.items()],
        )
        opset = helper.make_opsetid("", _OPSET)
        proto = helper.make_model(
            graph, opset_imports=[opset], ir_version=_IR, producer_name="troika-launcher"
        )
        onnx.checker.check_model(proto, full_check=True)
        onnx.save(proto, path)

    def load(self, model: Model, path: Path) -> Classify:
        import onnxruntime

        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

        def run(pixels: Floats) -> Floats:
            (logits,) = session.run(["logits"], {"pixels": pixels})
            found: Floats = logits
            return found

        return run

    def usage(self, model: Model, path: Path) -> str:
        return (
            "import onnxruntime\n"
            f"session = onnxruntime.InferenceSession({str(path)!r})\n"
            '(logits,) = session.run(["logits"], {"pixels": pixels})'
        )


def _nodes(model: Model) -> list[NodeProto]:
    """Each node takes the one before it; the last one gives the logits."""
    from onnx import helper

    steps: list[tuple[str, list[str], dict[str, Any]]] = [
        ("Mul", ["scale"], {}),
        ("Add", ["shift"], {}),
    ]
    if isinstance(model.layers[0], Conv):
        steps.append(("Unsqueeze", ["channel"], {}))
    steps += [_step(layer) for layer in model.layers]
    names = ["pixels", *(f"value{number}" for number in range(1, len(steps))), "logits"]
    return [
        helper.make_node(operator, [names[number], *inputs], [names[number + 1]], **attributes)
        for number, (operator, inputs, attributes) in enumerate(steps)
    ]


def _step(layer: Layer) -> tuple[str, list[str], dict[str, Any]]:
    """A layer's operator, its constant inputs and its attributes."""
    if isinstance(layer, Dense | Conv):
        inputs = [f"{layer.name}.weight", f"{layer.name}.bias"]
        return ("Conv", inputs, {}) if isinstance(layer, Conv) else ("Gemm", inputs, {"transB": 1})
    simple: dict[str, tuple[str, dict[str, Any]]] = {
        "relu": ("Relu", {}),
        "pool": ("MaxPool", {"kernel_shape": [2, 2], "strides": [2, 2]}),
        "flatten": ("Flatten", {}),
    }
    operator, attributes = simple[layer.kind]
    return operator, [], attributes
