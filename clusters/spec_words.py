"""The words for what is wrong with a key or value of a cluster file.

What is allowed is read from the schema, so the two cannot differ.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any

from clusters.spec_lines import Document, KeyPath
from clusters.spec_model import FORMS, KINDS, schema

_SHOWN = 60  # characters of a value


def nearest(word: str, known: Iterable[str], likeness: float = 0.6) -> str:
    """The name that ``word`` was probably meant to be, to end an error with; else ""."""
    names = {name.lower(): name for name in known}
    close = get_close_matches(word.lower(), names, n=1, cutoff=likeness)
    return f"; did you mean {names[close[0]]}?" if close else ""


class Words:
    """Says what is wrong with a key or value of a cluster of ``kind``."""

    def __init__(self, document: Document, kind: str) -> None:
        self._document, self._kind = document, kind
        whole = schema()
        self._definitions: Mapping[str, Any] = whole["$defs"]
        self._cluster = self._definitions[KINDS[kind].__name__]

    def of(self, location: KeyPath, error: str) -> tuple[KeyPath, str]:
        """What is wrong, and the key; ``location`` and ``error`` are pydantic's."""
        path, key_is_wrong = self._path(location)
        place, part = self._part(path[:-1]), self._part(path)
        value = self._value(path)
        if error == "extra_forbidden":
            text = self._unknown(str(path[-1]), place, top=len(path) == 1)
        elif key_is_wrong:
            (form,) = place["patternProperties"]
            text = f"the key must be {FORMS[form]}"
        elif value is None:
            text = f"has no value; give {self._allowed(part)}, or leave the key out"
        else:
            hint = self._hint(path, value, part)
            text = f"must be {self._allowed(part)}, not {shown(value)}{hint}"
        return path, text

    def _path(self, location: KeyPath) -> tuple[KeyPath, bool]:
        """The key's path, without pydantic's notes behind it, and whether the key itself is wrong.

        Behind a value of several types pydantic notes each type, behind a wrong key "[key]".
        """
        for length in range(1, len(location)):
            if "anyOf" in self._part(location[:length]):
                return location[:length], False
        if location[-1] == "[key]" and "patternProperties" in self._part(location[:-2]):
            return location[:-1], True
        return location, False

    def _unknown(self, name: str, place: Mapping[str, Any], *, top: bool) -> str:
        for other, model in KINDS.items():
            if top and name in model.model_fields:
                return f"is for kind {other}; this cluster is of kind {self._kind}"
        keys = place["properties"]
        where = f" in kind {self._kind}" if top else ""
        return f"there is no such key; allowed{where}: {', '.join(keys)}{nearest(name, keys)}"

    def _hint(self, path: KeyPath, value: Any, part: Mapping[str, Any]) -> str:
        if isinstance(value, str):
            # A gpu is not a misspelt cpu.
            return nearest(value, part.get("enum", ()), likeness=0.7)
        text = self._document.texts.get(path)
        if text and "pattern" in part and re.search(part["pattern"], text):
            return f'; quote it: "{text}"'
        return ""

    def _value(self, path: KeyPath) -> Any:
        value: Any = self._document.values
        for name in path:
            value = value[name]
        return value

    def _part(self, path: KeyPath) -> Mapping[str, Any]:
        """The schema of what is at ``path``."""
        part: Mapping[str, Any] = self._cluster
        for name in path:
            if "properties" in part:
                part = part["properties"].get(name, {})
            elif "patternProperties" in part:
                (part,) = part["patternProperties"].values()
            else:
                part = part.get("items", {})
            part = self._resolved(part)
        return part

    def _resolved(self, part: Mapping[str, Any]) -> Mapping[str, Any]:
        if "$ref" not in part:
            return part
        resolved: Mapping[str, Any] = self._definitions[part["$ref"].rpartition("/")[2]]
        return resolved

    def _allowed(self, part: Mapping[str, Any]) -> str:
        """What a schema allows, in words."""
        match self._resolved(part):
            case {"anyOf": choices}:
                words = " or ".join(self._allowed(choice) for choice in choices)
            case {"const": value}:
                words = json.dumps(value)
            case {"enum": values}:
                words = f"one of {', '.join(values)}"
            case {"pattern": form}:
                words = FORMS[form]
            case {"items": item}:
                words = f"a list, each item {self._allowed(item)}"
            case {"properties": keys}:
                words = f"a section of KEY: VALUE lines (keys: {', '.join(keys)})"
            case {"type": "object"}:
                words = "a section of KEY: VALUE lines"
            case number:
                words = _number(number)
        return words


def _number(part: Mapping[str, Any]) -> str:
    words = "a whole number" if part["type"] == "integer" else "a number"
    if "exclusiveMinimum" in part:
        return f"{words} above {part['exclusiveMinimum']}"
    if "maximum" in part:
        return f"{words} from {part['minimum']} to {part['maximum']}"
    return f"{words}, {part['minimum']} or more"


def shown(value: Any) -> str:
    """A value as a file has it, cut short."""
    if isinstance(value, (dict, list)):
        noun = "list" if isinstance(value, list) else "section"
        return f"a {noun}" if value else f"an empty {noun}"
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
