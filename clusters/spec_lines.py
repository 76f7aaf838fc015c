"""A YAML file as plain values, with the line of every key and the text of every value.

Plain values are read as YAML 1.2 and editors read them: ``on``, ``12:30:00`` and ``2024-01-01`` are
text. There are no aliases (a few lines of them can stand for gigabytes) and no tags.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

import yaml

KeyPath = tuple[str | int, ...]

_INT, _FLOAT = "tag:yaml.org,2002:int", "tag:yaml.org,2002:float"
_BOOL, _NULL = "tag:yaml.org,2002:bool", "tag:yaml.org,2002:null"


class SpecError(Exception):
    """What is wrong with a cluster file, a line for each problem: ``FILE:LINE: KEY: problem``."""


@dataclass(frozen=True, kw_only=True)
class Document:
    """What a file holds.

    ``lines``: the 1-based line of every key and list item; ``texts``: plain values as written;
    ``repeated``: keys that were given before, with the line of the repetition.
    """

    values: dict[str, Any] = field(default_factory=dict)
    lines: dict[KeyPath, int] = field(default_factory=dict)
    texts: dict[KeyPath, str] = field(default_factory=dict)
    repeated: list[tuple[KeyPath, int]] = field(default_factory=list)


def dotted(path: KeyPath) -> str:
    """A key's path as errors name it: ``kuberay.head.cpu``."""
    return ".".join(str(part) for part in path)


def parse(name: str, text: str) -> Document:
    """The one document in ``text``; ``name`` is the file's, for errors. Raises SpecError."""
    document = Document()
    try:
        root = _Loader(text).get_single_node()
        if root is None:
            raise SpecError(f"{name}: is empty; a cluster begins with a line such as kind: local")
        if not isinstance(root, yaml.MappingNode):
            raise SpecError(
                f"{name}:{_line(root)}: a cluster is written in lines of KEY: VALUE, "
                f"this is {'a list' if isinstance(root, yaml.SequenceNode) else 'a single value'}"
            )
        document.values.update(_plain(root, (), document))
    except yaml.MarkedYAMLError as error:
        raise SpecError(_told(name, error)) from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise SpecError(
            f"{name}:{line}: the character U+{int(error.character):04X} cannot be in YAML"
        ) from None
    except RecursionError:
        raise SpecError(f"{name}: is nested too deeply for a cluster") from None
    return document


class _Loader(yaml.SafeLoader):
    """Composes nodes; the plain types are those of YAML 1.2."""

    yaml_implicit_resolvers = {}  # noqa: RUF012  (PyYAML's own class attribute)

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent):
            raise _refused(f"aliases are not read; write what *{event.anchor} stands for", event)
        if event.tag is not None:
            raise _refused(
                f"the tag {event.tag} is not read; quote a text that begins with !", event
            )
        return super().compose_node(parent, index)


for _tag, _form, _first in (
    (_NULL, r"^(?:~|null|Null|NULL|)$", ["~", "n", "N", ""]),
    (_BOOL, r"^(?:true|True|TRUE|false|False|FALSE)$", list("tTfF")),
    (_INT, r"^[-+]?[0-9]+$", list("-+0123456789")),
    (_FLOAT, r"^[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?$", list("-+.0123456789")),
):
    _Loader.add_implicit_resolver(_tag, re.compile(_form), _first)


def _plain(node: yaml.Node, path: KeyPath, document: Document) -> Any:
    """The value of ``node``, noting lines, texts and repeated keys below it."""
    if isinstance(node, yaml.MappingNode):
        values: dict[str, Any] = {}
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise _refused("a key must be a word", key)
            below = (*path, key.value)
            if key.value in values:
                document.repeated.append((below, _line(key)))
                continue
            document.lines[below] = _line(key)
            values[key.value] = _plain(value, below, document)
        return values
    if isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            document.lines[(*path, index)] = _line(item)
        return [_plain(item, (*path, i), document) for i, item in enumerate(node.value)]
    document.texts[path] = node.value
    return _scalar(node)


def _scalar(node: yaml.Node) -> Any:
    text: str = node.value
    if node.tag == _BOOL:
        return text.lower() == "true"
    if node.tag == _INT and len(text) < 20:  # Python refuses to read numbers of any length
        return int(text)
    if node.tag in (_INT, _FLOAT):
        return float(text)
    return None if node.tag == _NULL else text


def _refused(problem: str, what: Any) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=what.start_mark)


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1


def _told(name: str, error: yaml.MarkedYAMLError) -> str:
    mark = error.problem_mark or error.context_mark
    where = f"{name}:{mark.line + 1}:{mark.column + 1}" if mark else name
    begun = error.context or ""
    if error.context_mark and error.context_mark is not mark:
        begun += f" that begins in line {error.context_mark.line + 1}"
    return f"{where}: {': '.join(filter(None, (begun, error.problem)))}"
