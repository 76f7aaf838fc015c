"""Whether a Ray cluster can be reached: asked of real heads, and told in words that help."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path

import pytest

from clusters.grpc_ping import Answer, read_answer
from clusters.ray_access import Access, address_file, check, explain, find_access, find_local, judge
from tests.ray_head import HOST, Head, free_ports, ray_head

needs_ray = pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed")

HEAD = "head:6379"
TOKEN = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "secret"}
TIMEOUT_S = 60.0


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    with ray_head(client=True) as running:
        yield running


def without(environ: Mapping[str, str], *names: str) -> dict[str, str]:
    return {name: value for name, value in environ.items() if name not in names}


@needs_ray
def test_nothing_speaks_against_a_head_that_lets_us_in(head: Head, tmp_path: Path) -> None:
    assert check(head.address, head.environ, tmp_path) is None
    assert check("auto", {**head.environ, "RAY_ADDRESS": head.address}, tmp_path) is None
    assert check(f"ray://{HOST}:{head.client_port}", head.environ, tmp_path) is None


@needs_ray
@pytest.mark.parametrize(
    ("taken", "added", "said"),
    [
        (("RAY_AUTH_MODE",), {}, 'RAY_AUTH_MODE is not "token" here, so the one in RAY_AUTH_TOKEN'),
        (("RAY_AUTH_MODE", "RAY_AUTH_TOKEN"), {}, "there is none here: set RAY_AUTH_MODE=token"),
        (("RAY_AUTH_TOKEN",), {}, "neither RAY_AUTH_TOKEN nor ~/.ray/auth_token has one"),
        (
            ("RAY_AUTH_TOKEN",),
            {"RAY_AUTH_TOKEN_PATH": "/no/file"},
            "neither RAY_AUTH_TOKEN nor RAY_AUTH_TOKEN_PATH=/no/file has one",
        ),
        ((), {"RAY_AUTH_TOKEN": "x" * 200}, "refuses the token of RAY_AUTH_TOKEN"),
    ],
)
def test_a_head_that_does_not_let_us_in_is_told_with_what_to_set(
    head: Head, tmp_path: Path, taken: tuple[str, ...], added: dict[str, str], said: str
) -> None:
    environ = {**without(head.environ, *taken), **added}
    for address in (head.address, f"ray://{HOST}:{head.client_port}"):
        problem = check(address, environ, tmp_path)
        assert problem is not None
        assert problem.startswith(f"ray cluster {address} ")
        assert said in problem


@needs_ray
def test_a_token_in_the_home_folder_is_found_and_named(head: Head, tmp_path: Path) -> None:
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray/auth_token").write_text(f"{head.token}\n")
    environ = without(head.environ, "RAY_AUTH_TOKEN")
    assert check(head.address, environ, tmp_path) is None
    problem = check(head.address, without(environ, "RAY_AUTH_MODE"), tmp_path)
    assert f"the one in {tmp_path}/.ray/auth_token was not sent" in str(problem)


@needs_ray
def test_a_wrong_port_is_told_from_a_head(head: Head, tmp_path: Path) -> None:
    (nobody,) = free_ports(1)
    refused = check(f"{HOST}:{nobody}", head.environ, tmp_path)
    assert f"ray cluster {HOST}:{nobody}: connection refused; is Ray started there" in str(refused)
    web = check(head.url.removeprefix("http://"), head.environ, tmp_path)
    assert "a web server listens there; a head's own port is 6379" in str(web)


@needs_ray
@pytest.mark.parametrize(
    ("patch", "taken", "said"),
    [
        ("", "RAY_AUTH_TOKEN", "neither RAY_AUTH_TOKEN nor ~/.ray/auth_token has one"),
        ("ray.__version__ = '2.9.9'", "", ", and this process has Ray 2.9.9, Python "),
    ],
    ids=["no token", "another Ray"],
)
def test_what_ray_itself_says_is_understood(
    head: Head, tmp_path: Path, patch: str, taken: str, said: str
) -> None:
    environ = without(head.environ, taken)
    code = (
        f"import ray\n{patch}\ntry: ray.init({head.address!r}, log_to_driver=False)\n"
        "except Exception as error: print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**environ, "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
        timeout=TIMEOUT_S,
    )
    assert said in explain(done.stdout, head.address, environ, tmp_path)


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("head", "has no host and port: give auto, host:port or ray://host:port"),
        ("head:many", "has no host and port"),
        ("http://head:8265", "is a job server's address; take the head's own, host:6379, or auto"),
        ("anyscale://x", "is no address of a cluster"),
        ("nohost.invalid:6379", "no host of this name is known"),
    ],
)
def test_an_address_that_is_none_is_told(tmp_path: Path, address: str, said: str) -> None:
    assert f"ray cluster {address}: {said}" in str(check(address, {}, tmp_path))


def test_another_version_of_ray_is_told_before_anything_starts() -> None:
    access = find_access(TOKEN, Path("/nowhere"))
    problem = judge(HEAD, Answer(status=0, version="2.9.9"), access, TOKEN)
    if find_spec("ray") is None:
        assert problem is None  # this process brings no Ray that could differ
    else:
        assert "it runs Ray 2.9.9, and this process has Ray " in str(problem)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "RPC error: InvalidAuthToken: Authentication token is missing or incorrect",
            "refuses the token of RAY_AUTH_TOKEN: it is another cluster's",
        ),
        (
            "RAY_AUTH_TOKEN_PATH is set but file cannot be opened or is empty: /no/file",
            "refuses the token of RAY_AUTH_TOKEN",
        ),
        ("Failed to connect to Ray cluster at 10.0.0.1:6379", "does not answer Ray's calls"),
        (
            "Traceback (most recent call last):\n  File x, line 1\n\nRuntimeError: no room",
            "RuntimeError: no room",
        ),
        ("", "Ray failed without a word"),
    ],
)
def test_a_failure_of_ray_is_told_in_plain_words(text: str, said: str) -> None:
    assert said in explain(text, HEAD, TOKEN, Path("/nowhere"))


def test_a_client_port_that_nobody_serves_is_told() -> None:
    said = explain("ray client connection timeout", "ray://head:10001", TOKEN, Path("/nowhere"))
    assert "no Ray client server answers; the head serves it at port 10001" in said


def test_the_token_is_looked_for_as_ray_does(tmp_path: Path) -> None:
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray/auth_token").write_text(" home \n")
    named = tmp_path / "named"
    named.write_text("named")
    environ = {"RAY_AUTH_MODE": "Token"}
    assert find_access(environ, tmp_path).sent == "home"
    environ["RAY_AUTH_TOKEN_PATH"] = str(named)
    assert find_access(environ, tmp_path).sent == "named"
    environ["RAY_AUTH_TOKEN"] = "variable"
    assert find_access(environ, tmp_path).sent == "variable"
    del environ["RAY_AUTH_MODE"]
    assert find_access(environ, tmp_path) == Access(
        mode="", token="variable", source="RAY_AUTH_TOKEN"
    )
    assert find_access(environ, tmp_path).sent == ""


def test_auto_is_what_ray_means_by_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clusters.ray_access.running_heads", list)
    environ = {"RAY_TMPDIR": str(tmp_path), "TMPDIR": "/elsewhere"}
    path = address_file(environ)
    assert find_local(environ) is None
    assert f"neither RAY_ADDRESS nor {path} names one" in str(check("auto", environ, tmp_path))
    path.parent.mkdir()
    path.write_text("10.0.0.1:6379\n")
    assert find_local(environ) == "10.0.0.1:6379"
    monkeypatch.setattr("clusters.ray_access.running_heads", lambda: ["10.0.0.2:6379"])
    assert find_local(environ) == "10.0.0.2:6379"
    assert find_local({**environ, "RAY_ADDRESS": "10.0.0.3:6379"}) == "10.0.0.3:6379"


def test_an_answer_is_read_from_its_bytes() -> None:
    denied = b"\0\0}\1\5\0\0\0\1\x88@\x0ccontent-type\x10application/grpc\0\x0bgrpc-status\x0216\0"
    assert read_answer(denied) == Answer(status=16)
    well = b"\0\0\0\0\x0c\n\0\x12\x062.60.0 \1\0\0\x0f\1\5\0\0\0\1@\x0bgrpc-status\x010"
    assert read_answer(well) == Answer(status=0, version="2.60.0")
    assert read_answer(b"HTTP/1.1 400 Bad Request") == Answer(web=True)
    assert read_answer(b"") == Answer()
