"""What a job's nodes are sent: the launcher's own code, and the user's folder for a script."""

from __future__ import annotations

import hashlib
import io
import os
import zipfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import clusters
import launcher
import strategies
from clusters.shipping import NEVER_SENT, fits
from launcher.errors import UserError

OWN = ("launcher", "strategies", "clusters")
MOST_BYTES = 100 * 2**20
"""The most that Ray's job server takes, compressed (DASHBOARD_CLIENT_MAX_SIZE)."""
_TOLD = 3
_BEGINNING = (1980, 1, 1, 0, 0, 0)  # of time, for zip files: the same files make the same package


@dataclass(frozen=True, kw_only=True)
class Item:
    """A file and the name that it gets on the nodes."""

    path: Path
    name: str
    bytes: int


@dataclass(frozen=True, kw_only=True)
class Package:
    """A zip file, and a name of its content for Ray's store."""

    data: bytes

    @property
    def name(self) -> str:
        return f"_ray_pkg_{hashlib.sha256(self.data).hexdigest()[:40]}.zip"


def collect(working_dir: Path | None, excludes: Sequence[str]) -> list[Item]:
    """All files to send; the launcher's code comes before a user's folder of the same name.

    ``excludes`` are patterns for names, or for paths in ``working_dir``. Raises UserError.
    """
    items = []
    for package in (launcher, strategies, clusters):
        folder = Path(package.__path__[0])
        items += list(_below(folder, f"{folder.name}/", ()))
    if working_dir is not None:
        if not working_dir.is_dir():
            raise UserError(f"--working-dir {working_dir}: is not a folder")
        items += _below(working_dir, "", (*OWN, *excludes))
    return items


def pack(items: Sequence[Item]) -> Package:
    """Compresses what is to be sent. Raises UserError naming the largest if it is too much."""
    total = sum(item.bytes for item in items)
    if total > 10 * MOST_BYTES:  # nothing that is worth minutes of compressing
        raise _too_large(items, f"{_size(total)}")
    buffer = io.BytesIO()
    try:
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
            for item in sorted(items, key=lambda item: item.name):
                info = zipfile.ZipInfo(item.name, _BEGINNING)
                info.external_attr = item.path.stat().st_mode << 16
                info.compress_type = zipfile.ZIP_DEFLATED
                file.writestr(info, item.path.read_bytes())
    except OSError as error:
        raise UserError(f"{error.filename}: cannot be sent: {error.strerror}") from None
    if buffer.tell() > MOST_BYTES:
        raise _too_large(items, f"{_size(buffer.tell())} compressed")
    return Package(data=buffer.getvalue())


def describe(items: Sequence[Item], package: Package, working_dir: Path | None) -> str:
    """One line for people."""
    what = ", ".join(OWN)
    others = sum(item.name.split("/")[0] not in OWN for item in items)
    if working_dir is not None:
        what += f", {others} file{'' if others == 1 else 's'} of {working_dir}"
    return f"sends {_size(len(package.data))}: {what}"


def _below(folder: Path, prefix: str, excludes: Sequence[str]) -> Iterator[Item]:
    """Files below ``folder``; a link to a folder is not followed, one to a file is."""
    patterns = (*NEVER_SENT, *excludes)
    for place, folders, names in os.walk(folder):
        inner = Path(place).relative_to(folder)
        folders[:] = sorted(name for name in folders if not fits(inner / name, patterns))
        for name in sorted(names):
            path = Path(place) / name
            if path.is_file() and not fits(inner / name, patterns):
                sent = f"{prefix}{(inner / name).as_posix()}"
                yield Item(path=path, name=sent, bytes=path.stat().st_size)


def _too_large(items: Sequence[Item], size: str) -> UserError:
    sizes: Counter[str] = Counter()
    for item in items:
        top, slash, _ = item.name.partition("/")
        sizes[top + slash] += item.bytes
    largest = ", ".join(f"{name} ({_size(size)})" for name, size in sizes.most_common(_TOLD))
    return UserError(
        f"the files to send are {size}, and Ray's job server takes {_size(MOST_BYTES)}; the "
        f"largest: {largest}; leave out what the job does not need with --exclude PATTERN, and put "
        "data where the nodes can read it"
    )


def _size(number: int) -> str:
    return f"{number / 1e6:.1f} MB"
