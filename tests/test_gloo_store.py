"""The store at which Horovod's workers meet, and their variables: real sockets, real workers."""

from __future__ import annotations

import http.client
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from strategies.base import Peer, Rank
from strategies.gloo_store import horovod_environ, serve
from strategies.horovod_build import horovod_ready

ROOT = Path(__file__).parents[1]
NO_HOROVOD = horovod_ready()


@pytest.fixture
def port() -> Iterator[int]:
    with serve() as served:
        yield served


def ask(port: int, method: str, path: str, value: bytes | None = None) -> tuple[int, bytes]:
    """The store's status and answer, over a connection of its own, as Horovod asks."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request(method, path, body=value)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def test_a_key_is_absent_until_it_is_put_and_once_it_is_deleted(port: int) -> None:
    assert ask(port, "GET", "/global/0") == (404, b"")
    assert ask(port, "PUT", "/global/0", b"a\0b") == (200, b"")
    assert ask(port, "GET", "/global/0") == (200, b"a\0b")
    assert ask(port, "DELETE", "/global/0") == (200, b"")
    assert ask(port, "GET", "/global/0") == (404, b"")


def test_scopes_are_apart(port: int) -> None:
    ask(port, "PUT", "/global/0", b"one")
    ask(port, "PUT", "/local_host-0/0", b"other")
    ask(port, "DELETE", "/local_host-0/0")
    assert ask(port, "GET", "/global/0") == (200, b"one")


def test_an_empty_value_is_a_value(port: int) -> None:
    """A worker that is alone in its scope puts one."""
    ask(port, "PUT", "/cross_0/0", b"")
    assert ask(port, "GET", "/cross_0/0") == (200, b"")


def test_deleting_what_is_not_there_is_no_mistake(port: int) -> None:
    assert ask(port, "DELETE", "/global/7") == (200, b"")


def test_many_workers_at_once_are_all_served(port: int) -> None:
    count = 300
    with ThreadPoolExecutor(count) as workers:
        put = workers.map(lambda n: ask(port, "PUT", f"/global/{n}", str(n).encode()), range(count))
        assert list(put) == [(200, b"")] * count
        got = workers.map(lambda n: ask(port, "GET", f"/global/{n}"), range(count))
        assert list(got) == [(200, str(n).encode()) for n in range(count)]


def test_one_that_says_nothing_keeps_nobody_waiting(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port)):
        assert ask(port, "GET", "/global/0") == (404, b"")


def test_the_end_does_not_wait_for_one_that_says_nothing() -> None:
    with serve() as port:
        silent = socket.create_connection(("127.0.0.1", port))
        ask(port, "GET", "/global/0")  # the silent one has been accepted before
    with silent:
        silent.settimeout(1)
        assert silent.recv(1) == b""


def test_a_value_that_is_cut_off_is_not_kept(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port)) as writer:
        writer.sendall(b"PUT /global/0 HTTP/1.1\r\nContent-Length: 10\r\n\r\nhalf")
        writer.shutdown(socket.SHUT_WR)
        assert writer.recv(1) == b""
    assert ask(port, "GET", "/global/0") == (404, b"")


@pytest.mark.parametrize(("length", "status"), [("", 411), ("x", 411), (str(1 << 40), 413)])
def test_a_value_of_no_or_absurd_length_is_refused(port: int, length: str, status: int) -> None:
    with socket.create_connection(("127.0.0.1", port)) as writer:
        writer.sendall(f"PUT /global/0 HTTP/1.1\r\nContent-Length: {length}\r\n\r\n".encode())
        assert int(writer.makefile().readline().split()[1]) == status


def test_it_listens_on_its_address_alone(port: int) -> None:
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.2", port))


def test_its_port_is_free_again_at_once() -> None:
    with serve() as port:
        ask(port, "PUT", "/global/0", b"old")
    with serve(port=port) as again:
        assert again == port
        assert ask(port, "GET", "/global/0") == (404, b"")


def test_a_taken_port_is_an_error() -> None:
    with serve() as port, pytest.raises(OSError, match="in use"), serve(port=port):
        pass


def rank_of(number: int, world_size: int, local_world_size: int, port: int = 1) -> Rank:
    return Rank(
        rank=number,
        local_rank=number % local_world_size,
        world_size=world_size,
        local_world_size=local_world_size,
        master_addr="127.0.0.1",
        master_port=port,
    )


def peers_of(world_size: int, local_world_size: int) -> tuple[Peer, ...]:
    """As many on each host as fit, the hosts' interfaces being eth0, eth1, ..."""
    hosts = [number // local_world_size for number in range(world_size)]
    return tuple(Peer(host=h, address="127.0.0.1", port=0, interface=f"eth{h}") for h in hosts)


def test_the_variables_place_a_worker_of_the_second_host() -> None:
    variables = horovod_environ(rank_of(5, 6, 3), peers_of(6, 3))
    assert variables == {
        "HOROVOD_RANK": "5",
        "HOROVOD_SIZE": "6",
        "HOROVOD_LOCAL_RANK": "2",
        "HOROVOD_LOCAL_SIZE": "3",
        "HOROVOD_CROSS_RANK": "1",
        "HOROVOD_CROSS_SIZE": "2",
        "HOROVOD_HOSTNAME": "host-1",
        "HOROVOD_CONTROLLER": "gloo",
        "HOROVOD_CPU_OPERATIONS": "gloo",
        "HOROVOD_GLOO_RENDEZVOUS_ADDR": "127.0.0.1",
        "HOROVOD_GLOO_RENDEZVOUS_PORT": "1",
        "HOROVOD_GLOO_IFACE": "eth1",
    }


@pytest.mark.parametrize(
    ("rank", "local_rank", "cross"),
    [(0, 0, ("0", "2")), (1, 1, ("0", "1")), (2, 0, ("1", "2"))],
)
def test_hosts_may_have_unequally_many_workers(
    rank: int, local_rank: int, cross: tuple[str, str]
) -> None:
    place = replace(rank_of(rank, 3, 2), local_rank=local_rank)
    variables = horovod_environ(place, peers_of(3, 2))
    assert (variables["HOROVOD_CROSS_RANK"], variables["HOROVOD_CROSS_SIZE"]) == cross


@pytest.mark.skipif(NO_HOROVOD is not None, reason=str(NO_HOROVOD))
@pytest.mark.parametrize(("world_size", "local_world_size"), [(2, 2), (2, 1), (4, 2)])
def test_horovods_workers_meet_there_and_again(
    tmp_path: Path, world_size: int, local_world_size: int
) -> None:
    peers = [replace(peer, interface="lo") for peer in peers_of(world_size, local_world_size)]
    command = [sys.executable, "-m", "tests.hvd_worker", str(tmp_path)]
    with serve() as port:
        ranks = [rank_of(n, world_size, local_world_size, port) for n in range(world_size)]
        environs = [os.environ | horovod_environ(rank, tuple(peers)) for rank in ranks]
        workers = [subprocess.Popen(command, cwd=ROOT, env=environ) for environ in environs]
        try:
            assert [worker.wait(timeout=120) for worker in workers] == [0] * world_size
        finally:
            for worker in workers:
                worker.kill()
                worker.wait()
    for rank in ranks:
        expected = {
            "rank": rank.rank,
            "size": world_size,
            "local_rank": rank.local_rank,
            "local_size": local_world_size,
            "cross_rank": rank.rank // local_world_size,
            "cross_size": world_size // local_world_size,
            "sum": world_size * (world_size + 1) / 2,
        }
        assert json.loads((tmp_path / str(rank.rank)).read_text()) == [expected, expected]
