"""The command's words before typer reads them: it knows no option whose value may be left out."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any


def with_values(words: Sequence[str], flags: Collection[str]) -> list[str]:
    """The command's words, a --wait without a number given one: infinity.

    ``flags`` are the options that take no value; what is behind the script's name is the script's.
    """
    words, done = list(words), 0
    while done < len(words) and words[done].startswith("-") and words[done] != "--":
        if words[done] == "--wait" and not _number(words[done + 1 : done + 2]):
            words[done] = "--wait=inf"
        done += 1 if words[done] in flags or "=" in words[done] else 2
    return words


def _number(words: Sequence[str]) -> bool:
    try:
        return bool(words) and float(words[0]) >= 0
    except ValueError:
        return False


def flags_of(command: Any) -> set[str]:
    """The options of a command that take no value, by all their names."""
    flags = [option for option in command.params if getattr(option, "is_flag", False)]
    names = {name for option in flags for name in (*option.opts, *option.secondary_opts)}
    return names | {"--help"}
