"""``tflite``: TensorFlow Lite's format, for phones and small devices; run by LiteRT."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from strategies.mnist.checkpoint import Checkpoint
from strategies.mnist.models import Model

if TYPE_CHECKING:
    from strategies.mnist.export.base import Classify, Floats


class Lite:
    """The model in single precision, nothing quantized."""

    def write(self, checkpoint: Checkpoint, path: Path) -> None:
        import tensorflow as tf

        from strategies.mnist.export.keras_file import build_from_pixels

        converter = tf.lite.TFLiteConverter.from_keras_model(build_from_pixels(checkpoint))
        path.write_bytes(converter.convert())

    def load(self, model: Model, path: Path) -> Classify:
        from ai_edge_litert.interpreter import Interpreter

        runner = Interpreter(str(path)).get_signature_runner()

        def run(pixels: Floats) -> Floats:
            (logits,) = runner(pixels=pixels).values()
            found: Floats = logits
            return found

        return run

    def usage(self, model: Model, path: Path) -> str:
        return (
            "from ai_edge_litert.interpreter import Interpreter\n"
            f"runner = Interpreter({str(path)!r}).get_signature_runner()\n"
            "(logits,) = runner(pixels=pixels).values()"
        )
