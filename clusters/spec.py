"""A cluster file: where workers run, as YAML. ``python -m clusters.spec`` prints its JSON schema.

This imports pydantic, which takes a tenth of a second: import it only where there is such a file.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from clusters.spec_lines import SpecError, dotted, parse
from clusters.spec_model import schema
from clusters.spec_problems import find_problems
from clusters.spec_words import nearest

__all__ = ["FileSpec", "SpecError", "examples", "locate", "read_spec", "schema"]

_EXAMPLES = Path(__file__).parent / "examples"


@dataclass(frozen=True, kw_only=True)
class FileSpec:
    """What a cluster file sets.

    ``path``: as the user gave it; ``values``: only the keys of the file, as plain values;
    ``lines``: the 1-based line of each, by its dotted path ("kuberay.head.cpu", "devices.0").
    """

    path: Path
    kind: str
    values: Mapping[str, Any]
    lines: Mapping[str, int]

    def origin(self, key: str) -> str:
        """Where a key's value came from, "cluster.yaml:7". Raises KeyError."""
        shown = self.path.name if self.path.parent == _EXAMPLES else self.path
        return f"{shown}:{self.lines[key]}"


def read_spec(path: Path) -> FileSpec:
    """The cluster in the file ``path``. Raises SpecError, naming all problems of the file."""
    document = parse(str(path), _text(path))
    if found := find_problems(document):
        raise SpecError("\n".join(f"{path}:{problem}" for problem in found))
    return FileSpec(
        path=path,
        kind=document.values["kind"],
        values=MappingProxyType(document.values),
        lines={dotted(key): line for key, line in document.lines.items()},
    )


def locate(name: str, others: Sequence[str] = ()) -> Path:
    """The file ``name``, or the shipped example of that name.

    Raises SpecError, which lists the examples and ``others``, words that are right in its place.
    """
    path = Path(name)
    if path.is_file():
        return path
    shipped = examples()
    if (plain := name.removesuffix(".yaml")) in shipped:
        return shipped[plain]
    if path.exists():  # a folder, or a pipe from the shell
        return path
    raise SpecError(
        f"{name}: there is no such file, and no such example; there are "
        f"{', '.join([*others, *shipped])}{nearest(plain, [*others, *shipped])}"
    )


def examples() -> dict[str, Path]:
    """The shipped examples by name."""
    return {path.stem: path for path in sorted(_EXAMPLES.glob("*.yaml"))}


def _text(path: Path) -> str:
    try:
        data = path.read_bytes()
    except OSError as error:
        reason = (error.strerror or "cannot be read").lower()
        raise SpecError(f"{path}: {reason}; a cluster file in YAML is expected") from None
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise SpecError(f"{path}:{line}: is not UTF-8 text; save the file as UTF-8") from None


if __name__ == "__main__":
    print(json.dumps(schema(), indent=2))
