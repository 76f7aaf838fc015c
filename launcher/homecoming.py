"""The way home for a run's files: as marked lines of its log.

A job server serves nothing but a job's log. So the launcher on the cluster, when the variable
TROIKA_HOMECOMING is set (``submit`` does), prints its report, the losses and the last checkpoint at
the very end, and who follows the log takes them out again. A line is
``<mark> <name> <part>/<parts> <sha256 of the file> <zlib, base64>``; each stands for itself.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import socket
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

VARIABLE = "TROIKA_HOMECOMING"
MOST_BYTES = 16 * 2**20
"""A file that is larger when compressed stays where it is."""
_MARK = "<troika-file>"
_PART_BYTES = 5625  # 7,500 letters; Ray cuts lines of 20,000


def bring_home(
    folder: Path, environ: Mapping[str, str], write: Callable[[str], object] = print
) -> None:
    """Writes a finished run's files as lines, if TROIKA_HOMECOMING is set."""
    if not environ.get(VARIABLE):
        return
    from strategies.mnist.checkpoint import CheckpointError, latest

    paths = [folder / "report.json", folder / "losses.csv"]
    with suppress(CheckpointError):  # a script's run has none, nor one that failed early
        paths.append(latest(folder))
    for path in paths:
        if not path.exists():
            continue
        packed = zlib.compress(path.read_bytes())
        if len(packed) > MOST_BYTES:
            write(
                f"{path.name} ({len(packed) / 1e6:.1f} MB compressed) is too large to be sent home "
                f"in the log: it stays on {socket.gethostname()}, {path}; give --out behind the -- "
                "to have it in a folder that lasts"
            )
            continue
        for line in encode(path.relative_to(folder).as_posix(), path.read_bytes()):
            write(line)


def encode(name: str, data: bytes) -> Iterator[str]:
    """The lines for one file; ``name`` is its path in the run's folder, without spaces."""
    digest = hashlib.sha256(data).hexdigest()
    packed = zlib.compress(data)
    parts = range(0, len(packed), _PART_BYTES)
    for number, start in enumerate(parts, start=1):
        text = base64.b64encode(packed[start : start + _PART_BYTES]).decode()
        yield f"{_MARK} {name} {number}/{len(parts)} {digest} {text}"


@dataclass
class _Arriving:
    parts: int
    digest: str
    texts: dict[int, str] = field(default_factory=dict)

    def data(self) -> bytes:
        """Raises ValueError, which says what is wrong."""
        if missing := self.parts - len(self.texts):
            raise ValueError(f"{missing} of {self.parts} parts are missing")
        try:
            packed = b"".join(
                base64.b64decode(self.texts[number], validate=True)
                for number in range(1, self.parts + 1)
            )
            data = zlib.decompress(packed)
        except (KeyError, binascii.Error, zlib.error):
            data = b""
        if hashlib.sha256(data).hexdigest() != self.digest:
            raise ValueError("it was damaged on the way")
        return data


class Decoder:
    """Takes the files out of a log, line by line."""

    def __init__(self) -> None:
        self._arriving: dict[str, _Arriving] = {}

    def feed(self, line: str) -> str | None:
        """The text of ``line`` that is for people: all of it, or what is before a file's part."""
        text, mark, rest = line.partition(_MARK)
        if not mark:
            return line
        match rest.split():
            case [name, place, digest, data] if _is_inside(name):
                number, _, parts = place.partition("/")
                if number.isdecimal() and parts.isdecimal():
                    self._take(name, int(number), _Arriving(int(parts), digest), data)
        return text or None

    def _take(self, name: str, number: int, new: _Arriving, data: str) -> None:
        known = self._arriving.get(name)
        if known is None or (known.parts, known.digest) != (new.parts, new.digest):
            self._arriving[name] = known = new
        known.texts[number] = data

    def files(self) -> dict[str, bytes]:
        """Those that have come in whole, by their path in the run's folder."""
        return {name: data for name, data in self._looked_at() if isinstance(data, bytes)}

    def problems(self) -> list[str]:
        """A sentence for each file that has not come in whole."""
        return [f"{name}: {why}" for name, why in self._looked_at() if isinstance(why, str)]

    def _looked_at(self) -> Iterator[tuple[str, bytes | str]]:
        for name, arriving in self._arriving.items():
            try:
                yield name, arriving.data()
            except ValueError as error:
                yield name, str(error)


def _is_inside(name: str) -> bool:
    """Whether a path stays in the folder that it is to be written into."""
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts
