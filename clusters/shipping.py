"""What a Ray cluster's nodes are sent: this project's code, and a script's folder."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path, PurePath

from clusters.base import ClusterError

_ROOT = Path(__file__).parent.parent
_OURS = ("clusters", "strategies")
# What they import beside the frameworks and numpy, which a framework brings along. safetensors'
# binary serves every Python of a platform, and nodes of another platform are refused anyway.
_LIBRARIES = ("pynvml", "safetensors")
NEVER_SENT = (
    *(".git", ".hg", ".venv", "venv", "node_modules", "runs", "__pycache__", "*.pyc"),
    *(".mypy_cache", ".ruff_cache", ".pytest_cache", ".ipynb_checkpoints"),
)
"""Patterns of what no job needs, by whichever way it is sent."""
_MOST_BYTES = 500 * 2**20  # Ray's own limit for a package


@dataclass(frozen=True)
class Shipment:
    """``modules``: packages for Ray's py_modules; ``bytes``: of all that is sent."""

    modules: tuple[Path, ...]
    bytes: int

    @property
    def note(self) -> str:
        names = ", ".join(path.name for path in self.modules)
        return f"each node is sent {self.bytes / 1e6:.1f} MB once: {names}"


def stage(folder: Path) -> Shipment:
    """Copies what every job needs below ``folder``, without what compilers and tests leave."""
    modules = []
    ignore = shutil.ignore_patterns(*NEVER_SENT)
    for source in [*(_ROOT / name for name in _OURS), *map(_installed, _LIBRARIES)]:
        if source.is_dir():
            target = folder / source.name
            shutil.copytree(source, target, ignore=ignore)
        else:  # Ray sends packages, no single modules
            target = folder / source.stem
            target.mkdir(parents=True)
            shutil.copy(source, target / "__init__.py")
        modules.append(target)
    return Shipment(tuple(modules), sum(map(size_of, modules)))


def size_of(folder: Path, exclude: Sequence[str] = ()) -> int:
    """Bytes of all files below a folder, but for those that match ``exclude``."""
    return _size(folder, Path(), (*NEVER_SENT, *exclude))


def fits(path: PurePath, patterns: Sequence[str]) -> bool:
    """Whether one of the patterns is for the name of a path, or for the path in its folder."""
    plain = [pattern.rstrip("/") for pattern in patterns]
    return any(fnmatch(path.name, one) or fnmatch(str(path), one) for one in plain)


def _size(folder: Path, inside: Path, patterns: Sequence[str]) -> int:
    total = 0
    for path in (folder / inside).iterdir():
        relative = inside / path.name
        if fits(relative, patterns):
            continue
        if path.is_dir() and not path.is_symlink():
            total += _size(folder, relative, patterns)
        elif path.is_file():
            total += path.stat().st_size
    return total


def working_dir(folder: Path, exclude: Sequence[str]) -> dict[str, object]:
    """Ray's runtime environment for a script in ``folder``. Raises ClusterError if too large.

    What .gitignore names is sent too: a script may need what nobody commits.
    """
    size = size_of(folder, exclude)
    if size > _MOST_BYTES:
        raise ClusterError(
            f"the script's folder {folder} has {size / 1e6:,.0f} MB, and Ray sends "
            f"{_MOST_BYTES / 1e6:,.0f} MB at most; list what the script does not need under "
            "`exclude` in the cluster file"
        )
    return {"working_dir": str(folder), "excludes": [*NEVER_SENT, *exclude]}


def _installed(name: str) -> Path:
    found = importlib.util.find_spec(name)
    assert found is not None  # it is one of this package's dependencies
    assert found.origin is not None
    return Path(found.origin).parent if found.submodule_search_locations else Path(found.origin)
