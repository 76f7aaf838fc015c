"""Where to run: flags go before variables, these before the cluster file, and each says so."""

from __future__ import annotations

import io
import math
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
from rich.console import Console

from clusters.base import Allocation, ClusterError, ClusterSpec, Host, NoRoom
from clusters.local import LocalCluster
from clusters.spec import FileSpec
from launcher.errors import UserError
from launcher.job import Given, resolve
from launcher.output import Output
from launcher.place import Place, choose_place, read_file, script_there, with_file
from launcher.room import Wait, find_room
from strategies import load_strategy

HEAD = "10.0.0.1:6379"


def file_of(**values: Any) -> FileSpec:
    """A file whose keys are on one line each, the kind on the first."""
    values = {"kind": "ray", **values}
    lines = {key: number for number, key in enumerate(values, start=1)}
    return FileSpec(
        path=Path("lab.yaml"), kind=values["kind"], values=MappingProxyType(values), lines=lines
    )


def place_of(
    file: FileSpec | None = None,
    environ: Mapping[str, str] | None = None,
    kind: str = "local",
    **given: Any,
) -> Place:
    flags = {name: Given(value, f"--{name}") for name, value in given.items()}
    if file is not None:
        flags["cluster"] = Given("lab.yaml", "--cluster")
    return choose_place(flags, environ or {}, kind, file)


def refused(*place: Any, **given: Any) -> str:
    with pytest.raises(UserError) as caught:
        place_of(*place, **given)
    return str(caught.value)


@pytest.mark.parametrize("kind", ["local", "ray"])
def test_the_strategys_own_kind_is_the_default(kind: str) -> None:
    place = place_of(kind=kind)
    assert (place.spec, place.sources["kind"]) == (ClusterSpec(kind=kind), "the strategy's own")


def test_a_kind_that_is_named_goes_before_the_strategys() -> None:
    place = place_of(kind="ray", cluster="local")
    assert (place.spec.kind, place.sources["kind"]) == ("local", "--cluster")


def test_a_file_goes_before_the_strategys_kind_and_names_its_lines() -> None:
    file = file_of(address=HEAD, cpus_per_worker=4, exclude=["*.bin"], labels={"a": "b"})
    place = place_of(file)
    assert place.spec == ClusterSpec(
        kind="ray", address=HEAD, cpus_per_worker=4, exclude=("*.bin",), labels={"a": "b"}
    )
    assert place.sources["kind"] == "lab.yaml:1"
    assert place.sources["labels"] == "lab.yaml:5"
    assert place.sources["placement"] == "default"


def test_settings_of_nodes_need_a_cluster_that_has_some() -> None:
    text = refused(file_of(labels={"a": "b"}, placement="spread"))
    assert text.startswith("placement (lab.yaml:3), labels (lab.yaml:2): only for an existing Ray")


def test_every_setting_of_a_place_has_a_source() -> None:
    settings = {field.name for field in fields(ClusterSpec)} - {"ships_folder"}
    assert place_of().sources.keys() == settings


def test_devices_may_be_numbers_in_a_file() -> None:
    file = file_of(kind="local", devices=[2, "GPU-1"])
    assert place_of(file).spec.devices == ("2", "GPU-1")


@pytest.mark.parametrize(
    ("environ", "flag", "address", "source"),
    [
        ({}, {}, "filed:1", "lab.yaml:2"),
        ({"RAY_ADDRESS": "set:2"}, {}, "set:2", "RAY_ADDRESS"),
        ({"RAY_ADDRESS": "set:2"}, {"address": HEAD}, HEAD, "--address"),
        ({"RAY_ADDRESS": ""}, {}, "filed:1", "lab.yaml:2"),
    ],
)
def test_an_address_comes_from_flag_variable_or_file_in_this_order(
    environ: dict[str, str], flag: dict[str, str], address: str, source: str
) -> None:
    place = place_of(file_of(address="filed:1"), environ, **flag)
    assert (place.spec.address, place.sources["address"]) == (address, source)


@pytest.mark.parametrize(
    ("environ", "flag", "source"),
    [({"RAY_ADDRESS": HEAD}, {}, "RAY_ADDRESS"), ({}, {"address": HEAD}, "--address")],
)
def test_an_address_alone_means_the_ray_cluster_there(
    environ: dict[str, str], flag: dict[str, str], source: str
) -> None:
    place = place_of(None, environ, **flag)
    assert (place.spec.kind, place.spec.address) == ("ray", HEAD)
    assert place.sources["kind"] == source
    assert place.title == f"cluster ray at {HEAD} ({source})"


def test_rays_variable_is_of_no_concern_to_another_kind_of_cluster() -> None:
    assert place_of(None, {"RAY_ADDRESS": HEAD}, cluster="local").spec == ClusterSpec()


@pytest.mark.parametrize(
    ("file", "given", "said"),
    [
        (None, {"cluster": "local"}, "and --cluster says local"),
        (file_of(kind="local"), {}, "and lab.yaml:1 says local"),
    ],
)
def test_an_address_for_a_cluster_that_has_none_is_refused(
    file: FileSpec | None, given: dict[str, str], said: str
) -> None:
    text = refused(file, address=HEAD, **given)
    assert text.startswith(f"--address {HEAD}: only a cluster of kind ray has an address")
    assert text.endswith(said)


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_job_servers_address_is_told_from_a_clusters(scheme: str) -> None:
    text = refused(address=f"{scheme}://head:8265")
    assert f"`launcher submit --address {scheme}://head:8265 -- ...`" in text


def test_a_script_takes_its_folder_along() -> None:
    assert place_of(script=["train.py"]).spec.ships_folder
    assert not place_of().spec.ships_folder


def test_a_named_cluster_begins_an_error_with_its_name() -> None:
    assert place_of(file_of(name="lab")).title == "cluster lab"


def test_the_jobs_settings_in_a_file_give_way_to_flags_and_variables() -> None:
    file = file_of(address=HEAD, gpus=8, max_restarts=2, device="cuda")
    given = {
        "cluster": Given("lab.yaml", "--cluster"),
        "gpus": Given(4, "--gpus"),
        "device": Given("cpu", "TROIKA_DEVICE"),
    }
    assert with_file(given, file) == {
        "gpus": Given(4, "--gpus"),
        "max_restarts": Given(2, "lab.yaml:4"),
        "device": Given("cpu", "TROIKA_DEVICE"),
    }


def test_where_to_run_is_not_a_setting_of_the_job() -> None:
    given = {"address": Given(HEAD, "--address"), "lr": Given(1.0, "--lr")}
    assert with_file(given, None) == {"lr": Given(1.0, "--lr")}


@pytest.mark.parametrize("name", [None, "local", "ray"])
def test_a_kind_is_not_a_file(name: str | None) -> None:
    assert read_file({"cluster": Given(name, "--cluster")} if name else {}) is None


def test_a_file_that_is_missing_is_a_mistake_of_the_user() -> None:
    with pytest.raises(UserError, match=r"nothing\.yaml: there is no such file"):
        read_file({"cluster": Given("nothing.yaml", "--cluster")})


def test_a_run_without_a_file_does_not_import_what_reads_files() -> None:
    code = (
        "import sys\n"
        "from launcher.cli import main\n"
        "sys.argv = ['launcher', '--dry-run', '--device', 'cpu', '--json']\n"
        "try:\n"
        "    main()\n"
        "except SystemExit as end:\n"
        "    assert not end.code, end.code\n"
        "assert not {'yaml', 'clusters.spec_model'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)


class Filling(LocalCluster):
    """A cluster that refuses with these errors, one a look, and has room then."""

    def __init__(self, *refusals: ClusterError) -> None:
        super().__init__()
        self._refusals = list(refusals)

    def probe(self) -> tuple[Host, ...]:
        return (Host(name="here", cores=8),)

    def allocate(
        self, hosts: tuple[Host, ...], workers: int, device: str, process_per: str
    ) -> Allocation:
        if self._refusals:
            raise self._refusals.pop(0)
        return super().allocate(hosts, workers, device, process_per)


class Looking:
    """A job of two workers that looks for room; ``said`` is what a person sees of it."""

    def __init__(self, wait: float | None, *, quiet: bool = False) -> None:
        self._text = io.StringIO()
        people = Console(file=self._text, width=200)
        self._wait = Wait(Output(people=people, as_json=False, quiet=quiet))
        given = {"gpus": Given(2, "--gpus"), "device": Given("cpu", "--device")}
        if wait is not None:
            given["wait"] = Given(wait, "TROIKA_WAIT")
        self._job = resolve(given, default_gpus=1, samples=60_000, checkpoint=None)

    def find(self, cluster: Filling) -> Allocation:
        return find_room(cluster, cluster.probe(), self._job, load_strategy("ddp"), self._wait)

    @property
    def said(self) -> list[str]:
        return self._text.getvalue().splitlines()


@pytest.fixture
def in_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("launcher.room._LOOK_S", 0.0)


@pytest.mark.usefixtures("in_no_time")
@pytest.mark.parametrize("wait", [60.0, math.inf])
def test_a_job_waits_for_room_and_says_each_reason_once(wait: float) -> None:
    looking = Looking(wait)
    cluster = Filling(NoRoom("all taken"), NoRoom("all taken"), NoRoom("one is free"))
    assert looking.find(cluster).workers == 2
    assert looking.said == ["waiting for room: all taken", "waiting for room: one is free"]


@pytest.mark.usefixtures("in_no_time")
def test_a_quiet_job_waits_without_a_word() -> None:
    looking = Looking(60.0, quiet=True)
    looking.find(Filling(NoRoom("all taken")))
    assert looking.said == []


@pytest.mark.parametrize(
    ("wait", "error", "said"),
    [
        (None, NoRoom("all taken"), "all taken; ask for fewer, or wait for room with --wait"),
        (0.0, NoRoom("all taken"), "all taken; waited for 0 s (TROIKA_WAIT)"),
        (math.inf, ClusterError("no GPU at all"), "no GPU at all"),
    ],
)
def test_a_job_does_not_wait_unasked_or_too_long_or_in_vain(
    wait: float | None, error: ClusterError, said: str
) -> None:
    with pytest.raises(UserError) as caught:
        Looking(wait).find(Filling(error))
    assert str(caught.value) == f"gpus 2 (--gpus): {said}"


@pytest.mark.parametrize(
    ("words", "there"),
    [
        (("train.py", "--lr", "1"), ("train.py", "--lr", "1")),
        (("./train.py",), ("train.py",)),
        (("/home/me/project/src/train.py",), ("src/train.py",)),
        (("src/../train.py",), ("train.py",)),
        (("python", "-m", "package.train"), ("python", "-m", "package.train")),
    ],
)
def test_a_script_is_named_as_nodes_find_it(words: tuple[str, ...], there: tuple[str, ...]) -> None:
    assert script_there(words, "--script", Path("/home/me/project")) == there


@pytest.mark.parametrize("script", ["/elsewhere/train.py", "../train.py"])
def test_a_script_that_nodes_do_not_get_is_refused(script: str) -> None:
    with pytest.raises(UserError, match="nodes are sent what is below /home/me/project"):
        script_there((script,), "--script", Path("/home/me/project"))
