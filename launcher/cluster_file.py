"""The file of --cluster: what it gives to a job, and the command ``cluster``.

``clusters.spec`` is imported on use only: a run without a file need not wait for pydantic.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from launcher.errors import UserError
from launcher.job import Given

if TYPE_CHECKING:
    from clusters.spec import FileSpec
    from launcher.output import Output

_SETTINGS = ("gpus", "device", "max_restarts", "min_gpus", "wait")


def read_cluster(name: str, kinds: Sequence[str] = ()) -> FileSpec:
    """The cluster in a file, or in the shipped example of that name.

    ``kinds`` are words that would be right in the name's place. Raises UserError.
    """
    from clusters.spec import SpecError, locate, read_spec

    try:
        return read_spec(locate(name, kinds))
    except SpecError as error:
        raise UserError(str(error)) from None


def clusters_given(spec: FileSpec) -> dict[str, Given]:
    """The job's settings that a cluster file has, with their lines as origins.

    Flags and variables go before them: ``{**clusters_given(spec), **given}``. ``wait: true``
    becomes an infinite number of seconds.
    """
    values = {name: spec.values[name] for name in _SETTINGS if name in spec.values}
    if values.get("wait") is True:
        values["wait"] = math.inf
    return {name: Given(value, spec.origin(name)) for name, value in values.items()}


def validate(name: str, output: Output) -> int:
    """Says what kind of cluster a valid file describes; the exit code. Raises UserError."""
    spec = read_cluster(name)
    count = len(spec.values) - 1
    if not output.quiet:
        settings = f"{count} setting{'' if count == 1 else 's'}"
        output.say(f"{spec.path}: a cluster of kind {spec.kind}, {settings}")
    return 0


def print_schema() -> None:
    """Prints the JSON schema of cluster files, for editors."""
    from clusters.spec import schema

    print(json.dumps(schema(), indent=2))


def list_examples(output: Output) -> None:
    """Prints the names of the shipped examples, each with what it is for."""
    from clusters.spec import examples

    shipped = examples()
    width = max(len(name) for name in shipped)
    for name, path in shipped.items():
        # The first line tells editors the schema.
        about = path.read_text(encoding="utf-8").splitlines()[1]
        output.say(f"{name:{width}}  {about.removeprefix('# ')}")
