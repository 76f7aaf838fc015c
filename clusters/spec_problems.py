"""What is wrong with a cluster file: what its schema refuses, and what does not go together."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from pydantic import ValidationError

from clusters.spec_lines import Document, KeyPath, dotted
from clusters.spec_model import KINDS
from clusters.spec_words import Words, nearest, shown


@dataclass(frozen=True, order=True)
class Problem:
    """A problem with the value, or the key, at ``path``."""

    line: int
    key: str
    text: str
    path: KeyPath = field(compare=False)

    def __str__(self) -> str:
        return f"{self.line}: {self.key}: {self.text}"


def find_problems(document: Document) -> list[Problem]:
    """All problems of a file, in the order of its lines."""
    found = [*_repeated(document), *_invalid(document)]
    wrong = {problem.path[0] for problem in found}
    return sorted([*found, *_contradictions(document, wrong)])


def _problem(document: Document, path: KeyPath, text: str) -> Problem:
    return Problem(document.lines.get(path, 1), dotted(path), text, path)


def _repeated(document: Document) -> Iterator[Problem]:
    for path, line in document.repeated:
        text = f"is given twice, here and in line {document.lines[path]}; keep one"
        yield Problem(line, dotted(path), text, path)


def _invalid(document: Document) -> Iterator[Problem]:
    """Keys and values that the schema refuses; where the kind is not known, those of every kind."""
    kind = document.values.get("kind")
    if isinstance(kind, str) and kind in KINDS:
        yield from _refused(document, kind).values()
        return
    allowed = " or ".join(KINDS)
    if "kind" not in document.values:
        text = f"is missing; a cluster has a line kind: {' or kind: '.join(KINDS)}"
    else:
        text = f"must be {allowed}, not {shown(kind)}{nearest(str(kind), KINDS)}"
    yield _problem(document, ("kind",), text)
    refused = [_refused(document, name) for name in KINDS]
    for path, problem in refused[-1].items():
        if all(path in others for others in refused):
            yield problem


def _refused(document: Document, kind: str) -> dict[KeyPath, Problem]:
    """What pydantic refuses in a cluster of ``kind``, one problem for a key."""
    try:
        KINDS[kind].model_validate({**document.values, "kind": kind})
    except ValidationError as error:
        words = Words(document, kind)
        found: dict[KeyPath, Problem] = {}
        for refusal in error.errors(include_url=False, include_context=False, include_input=False):
            path, text = words.of(refusal["loc"], refusal["type"])
            found.setdefault(path, _problem(document, path, text))
        return found
    return {}


def _contradictions(document: Document, wrong: set[str | int]) -> Iterator[Problem]:
    """Values that are allowed, but not together; those of the ``wrong`` keys are left out."""
    values = {key: value for key, value in document.values.items() if key not in wrong}
    gpus: int | None = values.get("gpus")
    devices: list[int | str] = values.get("devices", [])

    def besides(key: str, text: str, other: str) -> Problem:
        line = document.lines[(other,)]
        return _problem(document, (key,), f"{values[key]} {text} (line {line})")

    for key in ("min_gpus", "gpus_per_node"):
        if gpus and values.get(key, 0) > gpus:
            yield besides(key, f"is more than gpus {gpus}", "gpus")
    for key in ("gpus", "min_gpus"):
        if devices and values.get(key, 0) > len(devices):
            yield besides(key, f"is more than the {len(devices)} GPUs of devices", "devices")
    if devices and values.get("device") == "cpu":
        yield besides("device", "does not go with GPUs in devices; leave one out", "devices")
    for index, item in enumerate(devices):
        if item in devices[:index]:
            line = document.lines["devices", devices.index(item)]
            text = f"{item} is in the list already (line {line})"
            yield _problem(document, ("devices", index), text)
    for name, instead in (("CPU", "give cpus_per_worker"), ("GPU", "every worker has one GPU")):
        if name in values.get("resources_per_worker", ()):
            yield _problem(
                document, ("resources_per_worker", name), f"is no custom resource; {instead}"
            )
