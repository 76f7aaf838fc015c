"""What a node says of itself, asked as the launcher asks it: by a command."""

from __future__ import annotations

import gzip
import json
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from strategies.facts import Facts, code_hash, collect
from strategies.mnist.data import FILES
from tests.small_mnist import write_small_mnist

ROOT = Path(__file__).parent.parent
NO_SITE = "-S"  # without anything that is installed
FRAMEWORKS = {"torch", "tensorflow", "keras", "horovod", "ray", "numpy"}


def ask(*arguments: str, python: tuple[str, ...] = (), folder: Path = ROOT) -> Any:
    """The answer of ``python -m strategies.facts`` in a checkout."""
    done = subprocess.run(
        [sys.executable, *python, "-m", "strategies.facts", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
    )
    (line,) = done.stdout.splitlines()
    return json.loads(line)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of this project's code, without what Python has compiled of it."""
    for package in ("strategies", "clusters"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / package, tmp_path / package, ignore=ignored)
    return tmp_path


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_small_mnist(tmp_path / "data", 5, 3)


def test_the_command_tells_what_is_installed_here() -> None:
    facts = ask("ddp")
    assert facts["python"] == "{}.{}.{}".format(*sys.version_info[:3])
    assert facts["platform"].startswith(f"{sys.platform}-")
    assert facts["versions"]["numpy"] == np.__version__
    assert facts["versions"]["safetensors"] == version("safetensors")
    assert facts == json.loads(collect("ddp").to_json())


def test_what_is_not_installed_is_missing_and_has_no_version() -> None:
    facts = ask("mirrored", python=(NO_SITE,))
    assert facts["missing"] == ["tensorflow", "numpy", "safetensors"]
    assert facts["extra"] == "mirrored"
    assert facts["versions"] == {}


def test_a_script_needs_only_what_the_strategy_itself_runs_on() -> None:
    assert ask("ddp", "--script", python=(NO_SITE,))["missing"] == []
    facts = ask("horovod", "--script", python=(NO_SITE,))
    assert facts["missing"] == []
    assert "PyTorch is not installed" in facts["problem"]
    assert (facts["data"], facts["data_error"]) == (None, None)


@pytest.mark.parametrize("strategy", ["ddp", "mirrored", "horovod"])
def test_facts_are_found_without_importing_a_framework(strategy: str) -> None:
    code = (
        "import sys\n"
        "from strategies.facts import collect\n"
        f"collect({strategy!r})\n"
        "print(*{name.partition('.')[0] for name in sys.modules})\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert not set(done.stdout.split()) & FRAMEWORKS


def test_an_unknown_strategy_is_answered_with_those_there_are() -> None:
    with pytest.raises(subprocess.CalledProcessError) as error:
        ask("dpp")
    assert "invalid choice: 'dpp' (choose from " in error.value.stderr
    assert "mirrored" in error.value.stderr


def test_the_same_code_elsewhere_has_the_same_hash(checkout: Path) -> None:
    assert ask("ddp", "--script", folder=checkout)["code"] == code_hash()
    (checkout / "strategies/__pycache__").mkdir()
    (checkout / "strategies/__pycache__/ddp.cpython-311.pyc").write_bytes(b"compiled")
    assert ask("ddp", "--script", folder=checkout)["code"] == code_hash()


@pytest.mark.parametrize("name", ["strategies/mnist/order.py", "clusters/guard.py"])
def test_a_changed_file_changes_the_codes_hash(checkout: Path, name: str) -> None:
    with (checkout / name).open("a") as file:
        file.write("\n")
    assert ask("ddp", "--script", folder=checkout)["code"] != code_hash()


def test_a_renamed_file_changes_the_codes_hash(checkout: Path) -> None:
    (checkout / "clusters/oom.py").rename(checkout / "clusters/omm.py")
    assert ask("ddp", "--script", folder=checkout)["code"] != code_hash()


def test_raw_and_gzipped_data_have_the_same_hash(data: Path) -> None:
    raw = ask("ddp", "--data", str(data))
    for name in FILES.values():
        (data / f"{name}.gz").write_bytes(gzip.compress((data / name).read_bytes()))
        (data / name).unlink()
    assert ask("ddp", "--data", str(data)) == raw
    assert raw["folder"] == str(data)
    assert raw["data"] != collect("ddp").data


@pytest.mark.parametrize("name", FILES.values())
def test_a_changed_byte_changes_the_datas_hash(data: Path, name: str) -> None:
    before = collect("ddp", str(data)).data
    content = bytearray((data / name).read_bytes())
    content[-1] ^= 1
    (data / name).write_bytes(content)
    assert collect("ddp", str(data)).data != before


def test_what_is_wrong_with_the_data_is_told(data: Path) -> None:
    name = FILES["test", "labels"]
    (data / name).unlink()
    facts = ask("ddp", "--data", str(data))
    assert facts["data"] is None
    assert facts["data_error"] == f"{data} has neither {name} nor {name}.gz"


def test_facts_survive_the_way_through_json() -> None:
    facts = collect("horovod")
    assert "\n" not in facts.to_json()
    assert Facts.from_json(facts.to_json()) == facts


@pytest.mark.parametrize("text", ["", "[]", "3", '{"python": "3.11.7"}', "Traceback"])
def test_what_are_no_facts_is_quoted(text: str) -> None:
    with pytest.raises(ValueError, match="expected a node's facts as JSON, got") as error:
        Facts.from_json(text)
    assert repr(text) in str(error.value)
