"""What runs inside a worker, one file a strategy. Adding one is one file and one line here."""

from __future__ import annotations

from importlib import import_module

from strategies.base import Strategy

STRATEGIES: dict[str, str] = {
    "ddp": "strategies.ddp:Ddp",
    "mirrored": "strategies.mirrored:Mirrored",
    "horovod": "strategies.horovod_ring:Horovod",
}


def load_strategy(name: str) -> Strategy:
    """The strategy ``name``; its framework is imported only when it trains. Raises KeyError."""
    module, _, attribute = STRATEGIES[name].partition(":")
    strategy: Strategy = getattr(import_module(module), attribute)()
    return strategy
