"""The store at which Horovod's Gloo controller meets, and the variables that lead a worker to it.

In ``hvd.init()`` every worker puts its address into an HTTP key-value store, reads the others' and
deletes its own once all are connected. ``serve`` is that store, so that a user's script finds its
peers without horovodrun. What is asked of it: ``horovod/common/gloo/http_store.cc`` and
``horovod/runner/http/http_server.py`` of Horovod 0.28.1. Stdlib only.
"""

from __future__ import annotations

import signal
import socket
import socketserver
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from strategies.base import Peer, Rank

_LOOPBACK = "127.0.0.1"
_BACKLOG = 1024  # all workers connect at once, and again for every key
_LONGEST_VALUE = 16 * 1024 * 1024  # a value has some 100 bytes for every peer
_SILENCE_S = 3.0


@contextmanager
def serve(address: str = _LOOPBACK, port: int = 0) -> Iterator[int]:
    """While inside, the store listens on ``address`` only; gives its port (0: any free one).

    Raises OSError if ``address`` is not this host's or ``port`` is taken. At the end all
    connections are closed: no thread and no port stays.
    """
    with _Server((address, port), _Request) as server:
        thread = threading.Thread(target=server.serve_forever, name="gloo-store")
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()
            server.hang_up()


def horovod_environ(rank: Rank, peers: tuple[Peer, ...]) -> dict[str, str]:
    """What makes ``hvd.init()`` of this worker meet the others over Gloo.

    The store is at MASTER_ADDR and MASTER_PORT. Cross rank and size count, as horovodrun does, the
    hosts that have a worker of this local rank: hosts may have unequally many.
    """
    own = peers[rank.rank]
    workers = Counter(peer.host for peer in peers)
    across = [host for host in sorted(workers) if workers[host] > rank.local_rank]
    return {
        "HOROVOD_RANK": str(rank.rank),
        "HOROVOD_SIZE": str(rank.world_size),
        "HOROVOD_LOCAL_RANK": str(rank.local_rank),
        "HOROVOD_LOCAL_SIZE": str(rank.local_world_size),
        "HOROVOD_CROSS_RANK": str(across.index(own.host)),
        "HOROVOD_CROSS_SIZE": str(len(across)),
        # Part of a path in the store: a host's own name could be another host's too.
        "HOROVOD_HOSTNAME": f"host-{own.host}",
        "HOROVOD_CONTROLLER": "gloo",
        "HOROVOD_CPU_OPERATIONS": "gloo",
        "HOROVOD_GLOO_RENDEZVOUS_ADDR": rank.master_addr,
        "HOROVOD_GLOO_RENDEZVOUS_PORT": str(rank.master_port),
        "HOROVOD_GLOO_IFACE": own.interface,
    }


class _Server(ThreadingHTTPServer):
    """Values by path. A thread a connection: one that says nothing keeps nobody waiting."""

    request_queue_size = _BACKLOG
    daemon_threads = False  # server_close waits for them

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> None:
        self.values: dict[str, bytes] = {}
        self._connections: set[socket.socket] = set()
        self._lock = threading.Lock()
        super().__init__(address, handler)

    def server_bind(self) -> None:
        socketserver.TCPServer.server_bind(self)  # HTTPServer's asks DNS for a name first

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._lock:
            self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self._lock:
            self._connections.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A worker that dies in the middle of a request is the supervisor's to report."""

    def hang_up(self) -> None:
        """Ends the connections that are open, and so the threads that read from them."""
        with self._lock:
            for connection in self._connections:
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)


class _Request(BaseHTTPRequestHandler):
    """GET, PUT and DELETE of ``/scope/key``."""

    server: _Server
    timeout = _SILENCE_S

    def do_GET(self) -> None:
        value = self.server.values.get(self.path)
        if value is None:
            self._answer(HTTPStatus.NOT_FOUND)
        else:
            self._answer(HTTPStatus.OK, value)

    def do_PUT(self) -> None:
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal():
            self._answer(HTTPStatus.LENGTH_REQUIRED)
        elif int(length) > _LONGEST_VALUE:
            self._answer(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
        else:
            value = self.rfile.read(int(length))
            if len(value) == int(length):  # else the writer is gone: half a value helps nobody
                self.server.values[self.path] = value
                self._answer(HTTPStatus.OK)

    def do_DELETE(self) -> None:
        """At once: Horovod deletes a worker's key behind a barrier, when all have read it."""
        self.server.values.pop(self.path, None)
        self._answer(HTTPStatus.OK)

    def _answer(self, status: HTTPStatus, value: bytes = b"") -> None:
        self.send_response_only(status)
        self.send_header("Content-Length", str(len(value)))
        self.end_headers()
        self.wfile.write(value)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: the launcher's output is for people."""


def main() -> None:
    """``python -m strategies.gloo_store ADDRESS PORT``: serves until it is ended."""
    with serve(sys.argv[1], int(sys.argv[2])):
        signal.pause()


if __name__ == "__main__":
    main()
