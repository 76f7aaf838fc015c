"""Where there is no job server, or none that answers: told within seconds."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from rich.console import Console

from launcher.errors import UserError
from launcher.follow import Follower
from launcher.job import Given
from launcher.output import Output
from launcher.remote_jobs import JobServer, connect
from tests.ray_head import HOST, free_ports


@pytest.fixture
def web_server() -> Iterator[str]:
    """Any web server: it knows nothing of jobs."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"welcome")

        def log_message(self, format: str, *args: object) -> None:
            pass

    with HTTPServer((HOST, 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://{HOST}:{server.server_port}"
        server.shutdown()
        thread.join()


def test_another_web_server_is_no_job_server(web_server: str) -> None:
    with pytest.raises(UserError, match="no job server of Ray; it is at port 8265"):
        connect(web_server, {})


@pytest.mark.parametrize(
    ("address", "environ", "said"),
    [
        (None, {}, "--address is missing: the job server of the cluster, such as http://head:8265"),
        (None, {"RAY_ADDRESS": "head:6379"}, "(RAY_ADDRESS=head:6379 is not one)"),
        ("head:8265", {}, "--address head:8265: is no job server's address"),
        (None, {"RAY_ADDRESS": "http://"}, "RAY_ADDRESS http://: is no job server's address"),
        ("http://nohost.invalid:8265", {}, "(--address): no host of this name is known"),
        (
            None,
            {"RAY_ADDRESS": "http://x", "RAY_API_SERVER_ADDRESS": "http://nohost.invalid:1"},
            "job server http://nohost.invalid:1 (RAY_API_SERVER_ADDRESS): no host of this name",
        ),
    ],
)
def test_an_address_without_a_job_server_is_told(
    address: str | None, environ: dict[str, str], said: str
) -> None:
    with pytest.raises(UserError) as caught:
        connect(address, environ)
    assert said in str(caught.value)


def test_a_job_server_that_stays_away_is_left_with_the_way_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("launcher.follow._PATIENCE_S", 0.2)
    output = Output(people=Console(), as_json=False, quiet=False)
    (port,) = free_ports(1)
    server = JobServer(Given(f"http://{HOST}:{port}", "--address"), {})
    with pytest.raises(UserError) as caught:
        Follower(server, "job", None, output).follow()
    assert "connection refused; is Ray started there" in str(caught.value)
    assert f"launcher logs job --follow --address {server.url}" in str(caught.value)
