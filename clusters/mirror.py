"""A folder on one host followed from another: what is new in it, and how to write that down again.

Files are of two kinds, and nobody has to say which: those that grow (logs, events), and those that
get their name when they are complete. What is sent of a file in one go appears in one go.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

_PIECE_BYTES = 4 * 2**20
_TAIL_BYTES = 1024
_TEMPORARY = ".tmp-"  # as everybody here names a file that is not complete


@dataclass(frozen=True, kw_only=True)
class Piece:
    """A part of a file: its ``data`` from ``offset`` on; ``more`` of it was there to be sent."""

    name: str
    offset: int
    data: bytes
    more: bool


@dataclass(frozen=True)
class _Sent:
    """What was sent of a file: ``count`` bytes that end with ``tail``, when ``status`` was its."""

    status: os.stat_result
    count: int
    tail: bytes


class Source:
    """The folder that changes. What is in it at the start is not sent."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._sent = {
            name: _Sent(status, status.st_size, self._tail(name, status.st_size))
            for name, status in self._look().items()
        }

    def news(self) -> list[Piece]:
        """Some of what is new, a few megabytes at most; empty if nothing is."""
        pieces: list[Piece] = []
        room = _PIECE_BYTES
        looked = self._look()
        self._sent = {name: sent for name, sent in self._sent.items() if name in looked}
        for name, status in looked.items():
            sent = self._sent.get(name)
            if sent is not None and not self._goes_on(name, sent, status):
                sent = None  # another file of the same name
            if room > 0 and (sent is None or status.st_size > sent.count):
                offset, tail = (sent.count, sent.tail) if sent else (0, b"")
                piece = self._read(name, offset, room, status.st_size)
                room -= len(piece.data)
                pieces.append(piece)
                count = offset + len(piece.data)
                self._sent[name] = _Sent(status, count, (tail + piece.data)[-_TAIL_BYTES:])
        return pieces

    def _goes_on(self, name: str, sent: _Sent, status: os.stat_result) -> bool:
        """Whether this is the file that was sent, grown or not.

        Its number alone does not tell: a new file often gets that of one that was replaced.
        """
        if status.st_ino != sent.status.st_ino or status.st_size < sent.count:
            return False
        if status.st_size == sent.status.st_size:
            return status.st_mtime_ns == sent.status.st_mtime_ns
        return self._tail(name, sent.count) == sent.tail

    def _tail(self, name: str, end: int) -> bytes:
        with (self._folder / name).open("rb") as file:
            file.seek(max(0, end - _TAIL_BYTES))
            return file.read(min(end, _TAIL_BYTES))

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
