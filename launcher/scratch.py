"""Folders for a while, in the user's cache.

They are removed at the end, or by the next process if this one is killed.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from launcher.errors import UserError


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """While inside, an OSError is a UserError about the cache's ``folder``."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{folder}: cannot be written to: {error.strerror}; XDG_CACHE_HOME names another place"
        ) from None


class Scratch:
    """A folder for a while; ``keep`` leaves it for people to read, until the next ``scratch``."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.kept = False

    def keep(self) -> None:
        self.kept = True


@contextmanager
def scratch(parent: Path, prefix: str) -> Iterator[Scratch]:
    """A new folder in ``parent``, this process's alone. Raises UserError.

    Removes what others of the same ``prefix`` have left: a lock tells the living from the dead,
    as the kernel takes it away with the process.
    """
    with writing(parent):
        parent.mkdir(parents=True, exist_ok=True)
        for left in parent.glob(f"{prefix}*"):
            _remove_if_left(left)
        folder = Scratch(Path(tempfile.mkdtemp(prefix=prefix, dir=parent)))
        lock = os.open(folder.path, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield folder
    finally:
        os.close(lock)
        if not folder.kept:
            shutil.rmtree(folder.path)


def _remove_if_left(folder: Path) -> None:
    try:
        lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return  # another process was faster
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if any(folder.iterdir()):  # an empty one may be new, its owner about to lock it
            shutil.rmtree(folder, ignore_errors=True)
    except BlockingIOError:
        return
    finally:
        os.close(lock)
