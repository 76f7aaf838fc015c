"""A folder on one host followed from another: what is new in it, and how to write that down again.

Files are of two kinds, and nobody has to say which: those that grow (logs, events), and those that
get their name when they are complete. What is sent of a file in one go appears in one go.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

_PIECE_BYTES = 4 * 2**20
_TEMPORARY = ".tmp-"  # as everybody here names a file that is not complete


@dataclass(frozen=True, kw_only=True)
class Piece:
    """A part of a file: its ``data`` from ``offset`` on; ``more`` of it was there to be sent."""

    name: str
    offset: int
    data: bytes
    more: bool


class Source:
    """The folder that changes. What is in it at the start is not sent."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._sent = {name: (s.st_ino, s.st_size) for name, s in self._look().items()}

    def news(self) -> list[Piece]:
        """Some of what is new, a few megabytes at most; empty if nothing is."""
        pieces: list[Piece] = []
        room = _PIECE_BYTES
        for name, status in self._look().items():
            inode, sent = self._sent.get(name, (status.st_ino, 0))
            if inode != status.st_ino or status.st_size < sent:
                sent = 0  # another file of the same name
            if room > 0 and (status.st_size > sent or name not in self._sent):
                piece = self._read(name, sent, min(room, _PIECE_BYTES), status.st_size)
                room -= len(piece.data)
                pieces.append(piece)
                self._sent[name] = (status.st_ino, sent + len(piece.data))
        return pieces

    def _look(self) -> dict[str, os.stat_result]:
        found = {}
        for path in sorted(self._folder.rglob("*")):
            if _TEMPORARY not in path.name:
                try:
                    status = path.stat()
                except FileNotFoundError:
                    continue
                if path.is_file():
                    found[str(path.relative_to(self._folder))] = status
        return found

    def _read(self, name: str, offset: int, most: int, size: int) -> Piece:
        with (self._folder / name).open("rb") as file:
            file.seek(offset)
            data = file.read(min(most, size - offset))
        return Piece(name=name, offset=offset, data=data, more=offset + len(data) < size)


class Copy:
    """The folder that follows."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def write(self, piece: Piece) -> None:
        """Raises OSError; ValueError for a name that leads out of the folder."""
        path = self._folder / piece.name
        if not path.resolve().is_relative_to(self._folder.resolve()):
            raise ValueError(f"{piece.name} is not below {self._folder}")
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f"{path.name}{_TEMPORARY}{os.getpid()}")
        if piece.offset == 0 or temporary.exists():
            with temporary.open("ab" if piece.offset else "wb") as file:
                file.write(piece.data)
            if not piece.more:
                temporary.replace(path)
        else:
            with path.open("ab") as file:
                file.write(piece.data)
