"""The JSON schema for editors, and the shipped examples: both say what the code says."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import yaml

import clusters
from clusters.spec import examples, read_spec, schema
from tests.test_spec import REFUSED, REFUSED_LOCALLY

SCHEMA = Path(clusters.__file__).with_name("schema.json")
EXAMPLES = {
    *("this-machine", "chosen-gpus", "eight-gpu-box", "ray-cluster", "ray-labelled"),
    *("kuberay", "slurm"),
}


def test_the_schema_file_is_that_of_the_code() -> None:
    assert json.loads(SCHEMA.read_text()) == schema(), (
        "regenerate it: python -m clusters.spec > clusters/schema.json"
    )


def test_every_key_of_the_schema_is_described() -> None:
    sections = schema()["$defs"]
    bare = [
        f"{name}.{key}"
        for name, section in sections.items()
        for key, value in section["properties"].items()
        if not value.get("description")
    ]
    assert len(sections) == 7
    assert bare == []


@pytest.fixture(scope="module")
def editor() -> Any:
    """Checks a document against the schema file, as editors do."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        jsonschema = pytest.importorskip("jsonschema")
    return jsonschema.Draft202012Validator(json.loads(SCHEMA.read_text()))


def test_the_examples_are_the_promised_ones() -> None:
    assert set(examples()) == EXAMPLES


@pytest.mark.parametrize("name", sorted(EXAMPLES))
def test_an_example_is_valid_here_and_in_editors(name: str, editor: Any) -> None:
    path = examples()[name]
    assert path.read_text().startswith("# yaml-language-server: $schema=../schema.json\n# ")
    spec = read_spec(path)
    assert list(editor.iter_errors(dict(spec.values))) == []


@pytest.mark.parametrize(
    ("kind", "line"),
    [("ray", line) for line, *_ in REFUSED] + [("local", line) for line, *_ in REFUSED_LOCALLY],
)
def test_editors_refuse_what_is_refused_here(kind: str, line: str, editor: Any) -> None:
    assert not editor.is_valid({"kind": kind, **yaml.safe_load(line)})
