"""The start of PyTorch in a worker; its compiler is imported when it is needed, not before."""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

from strategies.base import Rank, TrainConfig

if TYPE_CHECKING:
    import torch

_COMPILER = "torch._dynamo"


class _Deferred(ModuleType):
    """Answers some questions itself; asked for anything else it gives way to the real module."""

    def __init__(self, name: str, **answers: object) -> None:
        super().__init__(name)
        vars(self).update(answers)

    def __getattr__(self, attribute: str) -> Any:
        if attribute.startswith("__") and attribute != "__path__":
            raise AttributeError(attribute)
        if isinstance(sys.modules.get(_COMPILER), _Deferred):
            del sys.modules[_COMPILER]
        return getattr(import_module(self.__name__), attribute)


def defer_compiler() -> None:
    """Spares this process the import of torch's compiler: 800 modules, 1.4 s at every start.

    DistributedDataParallel imports it to ask whether it is being compiled, and to have its forward
    function left out of that. Until something is compiled, both have plain answers. Whatever asks
    the compiler for more, torch.compile too, gets the real one. Does nothing where it has been
    imported already.
    """
    if _COMPILER in sys.modules:
        return

    def mode() -> str:
        return "ddp_optimizer"

    sys.modules[_COMPILER] = _Deferred(
        _COMPILER,
        utils=_Deferred(f"{_COMPILER}.utils", get_optimize_ddp_mode=mode),
        config=_Deferred(f"{_COMPILER}.config", _get_optimize_ddp_mode=mode),
        trace_rules=_Deferred(f"{_COMPILER}.trace_rules", clear_lru_cache=lambda: None),
        disable=lambda function, *_, **__: function,
    )


def prepare_torch(config: TrainConfig) -> None:
    """Imports torch and sets what holds for the whole process."""
    import torch

    torch.set_num_threads(config.threads)
    torch.backends.cuda.matmul.allow_tf32 = config.precision == "tf32"
    torch.backends.cudnn.allow_tf32 = config.precision == "tf32"
    if config.device == "cpu":
        defer_compiler()


def own_device(rank: Rank, config: TrainConfig) -> torch.device:
    """The device of a rank, made the current one."""
    import torch

    if config.device == "cpu":
        return torch.device("cpu")
    device = torch.device("cuda", rank.local_rank)
    torch.cuda.set_device(device)
    return device
