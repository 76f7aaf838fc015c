"""The workers' events, read from their files as they grow."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Event:
    """``kind`` and ``time`` (seconds since 1970) are in every event; ``fields`` is the rest."""

    rank: int
    kind: str
    time: float
    fields: dict[str, Any]


class EventReader:
    """Reads what has been added to each rank's file since the last look."""

    def __init__(self, paths: Iterable[Path]) -> None:
        self._paths = list(paths)
        self._offsets = [0] * len(self._paths)

    def read(self) -> Iterator[Event]:
        """New events, by rank. A line that is no event is passed over: scripts write them too."""
        for rank, path in enumerate(self._paths):
            try:
                with path.open("rb") as file:
                    file.seek(self._offsets[rank])
                    whole = file.read().rpartition(b"\n")[0]
            except FileNotFoundError:
                continue
            if not whole:
                continue
            self._offsets[rank] += len(whole) + 1
            for line in whole.split(b"\n"):
                event = _parse(rank, line)
                if event is not None:
                    yield event


def _parse(rank: int, line: bytes) -> Event | None:
    try:
        fields = json.loads(line)
        return Event(rank, str(fields.pop("event")), float(fields.pop("time")), fields)
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
