"""``torch``: the parameters alone, as torch.save writes a state_dict; loads with weights_only."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from strategies.mnist.checkpoint import Checkpoint
from strategies.mnist.models import Model
from strategies.mnist.weights import initial_weights

if TYPE_CHECKING:
    from torch import nn

    from strategies.mnist.export.base import Classify, Floats


class StateDict:
    """For the plain nn.Sequential of ``torch_model``; scaling the pixels is up to the user."""

    def write(self, checkpoint: Checkpoint, path: Path) -> None:
        import torch

        weights = {name: torch.from_numpy(value) for name, value in checkpoint.weights.items()}
        torch.save(weights, path)

    def load(self, model: Model, path: Path) -> Classify:
        import torch

        module = _module(model)
        module.load_state_dict(torch.load(path, weights_only=True))

        @torch.inference_mode()
        def run(pixels: Floats) -> Floats:
            inputs = torch.from_numpy(pixels).flatten(1) * model.scale + model.shift
            logits: Floats = module(inputs).numpy()
            return logits

        return run

    def usage(self, model: Model, path: Path) -> str:
        layers = [f"    {name}=nn.{layer}," for name, layer in _module(model).named_children()]
        return "\n".join(
            (
                "import torch",
                "from collections import OrderedDict",
                "from torch import nn",
                "module = nn.Sequential(OrderedDict(",
                *layers,
                "))",
                f"module.load_state_dict(torch.load({str(path)!r}, weights_only=True))",
                f"inputs = torch.from_numpy(pixels).flatten(1) * {model.scale!r} + {model.shift!r}",
                "logits = module(inputs)",
            )
        )


def _module(model: Model) -> nn.Sequential:
    import torch

    from strategies.mnist.torch_model import build

    return build(model, initial_weights(model, 0), torch.device("cpu"))
