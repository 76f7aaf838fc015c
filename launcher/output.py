"""How a command speaks."""

from __future__ import annotations

from dataclasses import dataclass

from rich.console import Console


@dataclass(frozen=True, kw_only=True)
class Output:
    """How a run speaks: text to ``people``; with ``as_json`` the report to stdout.

    ``brief`` leaves the tables of a finished run to whoever compares several.
    """

    people: Console
    as_json: bool
    quiet: bool
    brief: bool = False

    def say(self, text: str) -> None:
        """Text as it is: nothing in it is markup, and lines are not cut."""
        self.people.print(text, markup=False, highlight=False, soft_wrap=True)
