"""``torchscript``: a program that runs without Python's classes, in C++ too.

torch 2.13 still has TorchScript, and says that it will go: its warnings end in the log.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from strategies.mnist.checkpoint import Checkpoint
from strategies.mnist.models import MODELS, Model

if TYPE_CHECKING:
    from torch import nn

    from strategies.mnist.export.base import Classify, Floats


class Script:
    """The model scripted whole, from pixels to logits."""

    def write(self, checkpoint: Checkpoint, path: Path) -> None:
        import torch

        module = _with_pixels(MODELS[checkpoint.header.model], checkpoint)
        torch.jit.save(torch.jit.script(module.eval()), path)

    def load(self, model: Model, path: Path) -> Classify:
        import torch

        module = torch.jit.load(path)

        @torch.inference_mode()
        def run(pixels: Floats) -> Floats:
            logits: Floats = module(torch.from_numpy(pixels)).numpy()
            return logits

        return run

    def usage(self, model: Model, path: Path) -> str:
        return (
            "import torch\n"
            f"module = torch.jit.load({str(path)!r})\n"
            "logits = module(torch.from_numpy(pixels))"
        )


def _with_pixels(model: Model, checkpoint: Checkpoint) -> nn.Module:
    import torch
    from torch import nn

    from strategies.mnist.torch_model import build

    class FromPixels(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale, self.shift = model.scale, model.shift
            self.core = build(model, checkpoint.weights, torch.device("cpu"))

        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = self.core(pixels.flatten(1) * self.scale + self.shift)
            return logits

    return FromPixels()
