"""What a node would train with: versions, code, data. Asked of every node before a training.

``python -m strategies.facts STRATEGY [--data FOLDER | --script]`` prints it as one line of JSON, in
half a second: frameworks are looked up, not imported. Stdlib only.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import platform
import sys
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, fields
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from strategies import STRATEGIES, load_strategy
from strategies.base import Strategy
from strategies.mnist.data import PACKAGED, DataError, check, find_files

_SHIPPED = ("strategies", "clusters")  # the packages that run on a node
_ALWAYS = ("numpy", "safetensors")  # what the built-in training needs under every strategy
_ALONGSIDE = {"mirrored": ("keras",), "horovod": ("horovod",)}  # by the strategy's extra
_OTHER_NAMES = {"tensorflow": ("tensorflow-cpu",)}  # distributions that provide the same


@dataclass(frozen=True, kw_only=True)
class Facts:
    """A node, as far as the others have to be like it.

    ``platform``: such as linux-x86_64; ``versions``: of the strategy's libraries that are there,
    by name; ``missing``: modules that the training needs and that are not there, all of which the
    package's ``extra`` would install; ``problem``: what else the strategy lacks, and what to do;
    ``code``: the hash of this project's code; ``data``: the hash of the training data in
    ``folder`` (None: the packaged ones), None where there are none or ``data_error`` says what is
    wrong with them.
    """

    python: str
    platform: str
    versions: dict[str, str]
    missing: tuple[str, ...]
    extra: str
    problem: str | None
    code: str
    folder: str | None
    data: str | None
    data_error: str | None

    def to_json(self) -> str:
        """One line of text."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Facts:
        """Reads such a line. Raises ValueError for what is none of this version's."""
        try:
            values = json.loads(text)
            known = {field.name: values[field.name] for field in fields(cls)}
            return cls(**{**known, "missing": tuple(known["missing"])})
        except (KeyError, TypeError, json.JSONDecodeError):
            raise ValueError(f"expected a node's facts as JSON, got {text!r}") from None


def collect(strategy: str, data: str | None = None, *, script: bool = False) -> Facts:
    """The facts of this node. Reads the code and, unless a user's ``script`` runs, the data.

    ``data`` is the folder of the training data, None for the packaged ones. Raises KeyError for
    an unknown strategy.
    """
    chosen = load_strategy(strategy)
    missing = () if script else tuple(_missing((*chosen.requires, *_ALWAYS)))
    digest, data_error = (None, None) if script else _data(data)
    return Facts(
        python=platform.python_version(),
        platform=f"{sys.platform}-{platform.machine()}",
        versions=dict(_versions(chosen)),
        missing=missing,
        extra=chosen.install,
        problem=None if missing else chosen.missing(),
        code=code_hash(),
        folder=None if script else data,
        data=digest,
        data_error=data_error,
    )


def code_hash() -> str:
    """The hash of this project's code that runs on nodes, wherever its packages lie."""
    hashed = hashlib.sha256()
    for package in _SHIPPED:
        spec = find_spec(package)
        for folder in map(Path, (spec and spec.submodule_search_locations) or ()):
            for path in sorted(folder.rglob("*.py")):
                content = path.read_bytes()
                name = f"{package}/{path.relative_to(folder).as_posix()}"
                hashed.update(f"{name} {len(content)}\n".encode() + content)
    return hashed.hexdigest()


def _data(folder: str | None) -> tuple[str | None, str | None]:
    """The hash of the four files' content, raw or gzipped; or None and what is wrong."""
    where = Path(folder) if folder else PACKAGED
    hashed = hashlib.sha256()
    try:
        check(where)
        for path in find_files(where).values():
            content = path.read_bytes()
            hashed.update(gzip.decompress(content) if path.suffix == ".gz" else content)
    except DataError as error:
        return None, str(error)
    return hashed.hexdigest(), None


def _versions(strategy: Strategy) -> Iterator[tuple[str, str]]:
    alongside = _ALONGSIDE.get(strategy.install, ())
    for name in dict.fromkeys((*strategy.requires, *alongside, *_ALWAYS, "ray")):
        for distribution in (name, *_OTHER_NAMES.get(name, ())):
            try:
                yield name, version(distribution)
                break
            except PackageNotFoundError:
                continue


def _missing(names: Iterable[str]) -> list[str]:
    return [name for name in names if find_spec(name) is None]


def _main() -> None:
    parser = argparse.ArgumentParser(prog="python -m strategies.facts")
    parser.add_argument("strategy", choices=STRATEGIES)
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--data", help="the folder of the training data; default: the packaged ones")
    what.add_argument("--script", action="store_true", help="a script of the user's is to run")
    asked = parser.parse_args()
    print(collect(asked.strategy, asked.data, script=asked.script).to_json())


if __name__ == "__main__":
    _main()
