"""A quicker start of TensorFlow: TensorFlow Lite is imported when it is needed, not before."""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import Any

_API = "tensorflow._api.v2"
_NAMES = tuple(f"{_API}{place}.lite" for place in ("", ".compat.v1", ".compat.v2"))


class _Deferred(ModuleType):
    """Stands for a module; asked for anything, it gives way to the real one."""

    def __getattr__(self, attribute: str) -> Any:
        if attribute.startswith("__") and attribute != "__path__":
            raise AttributeError(attribute)
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]
        return getattr(import_module(self.__name__), attribute)


def defer_lite() -> None:
    """Spares this process the import of tf.lite, which no training wants: 0.3 s at every start.

    Half of that is its import, half that its classes make every later isinstance of an abstract
    class slower. ``tf.lite`` works as ever, from its first use on. Does nothing where TensorFlow
    has been imported already, and no harm where it has other names for it.
    """
    if "tensorflow" in sys.modules:
        return
    sys.modules |= {name: _Deferred(name) for name in _NAMES}
