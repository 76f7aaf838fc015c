"""One call to a Ray head without Ray: does it answer, which version is it, does it let us in?

``ray.init`` finds out the same in 20 seconds of trying where this takes a millisecond. It is one
request of gRPC, written by hand: HTTP/2 frames, and headers that are not compressed.
"""

from __future__ import annotations

import re
import socket
import struct
import time
from dataclasses import dataclass

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _SETTINGS = 0, 1, 4
_END_STREAM, _END_HEADERS = 1, 4
_NO_MESSAGE = bytes(5)  # not compressed, no bytes: a request without fields
_MOST_BYTES = 65536
_STATUS = re.compile(rb"grpc-status[\x01\x02](\d{1,2})")
_VERSION = re.compile(rb"\x12.(\d+\.\d+[0-9a-z.]*)", re.DOTALL)  # the answer's second field

HEAD_CALL = "/ray.rpc.NodeInfoGcsService/CheckAlive"
CLIENT_CALL = "/ray.rpc.RayletDriver/ClusterInfo"
"""What a head's own port and its Ray client server answer."""
UNAUTHENTICATED = 16
"""The status of a call whose token is missing or wrong."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """``status``: gRPC's, 0 is well, None for what is no gRPC; ``version``: the head's Ray, or "".

    ``web``: a web server has answered.
    """

    status: int | None = None
    version: str = ""
    web: bool = False


def ping(host: str, port: int, call: str, token: str, timeout_s: float) -> Answer:
    """Makes one call; ``token`` may be "". Raises OSError if nobody listens there."""
    deadline = time.monotonic() + timeout_s
    answer = b""
    with socket.create_connection((host, port), timeout=timeout_s) as connection:
        try:
            connection.sendall(_request(f"{host}:{port}", call, token))
            while not _STATUS.search(answer) and len(answer) < _MOST_BYTES:
                connection.settimeout(max(deadline - time.monotonic(), 0.001))
                if not (received := connection.recv(_MOST_BYTES)):
                    break
                answer += received
        except OSError:
            pass  # somebody listens, and does not answer
    return read_answer(answer)


def read_answer(answer: bytes) -> Answer:
    """What the bytes say that have come."""
    status = _STATUS.search(answer)
    if status is None:
        return Answer(web=answer.startswith(b"HTTP/1"))
    version = _VERSION.search(answer)
    return Answer(status=int(status[1]), version=version[1].decode() if version else "")


def _request(authority: str, call: str, token: str) -> bytes:
    headers = {
        ":method": "POST",
        ":scheme": "http",
        ":path": call,
        ":authority": authority,
        "content-type": "application/grpc",
        "te": "trailers",
    }
    if token:
        headers["authorization"] = f"Bearer {token}"
    block = b"".join(b"\0" + _text(name) + _text(value) for name, value in headers.items())
    return (
        _PREFACE
        + _frame(_SETTINGS, 0, 0, b"")
        + _frame(_HEADERS, _END_HEADERS, 1, block)
        + _frame(_DATA, _END_STREAM, 1, _NO_MESSAGE)
    )


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def _text(text: str) -> bytes:
    """A string as HPACK has it, not Huffman-coded: its length in 7 bits, then in groups of 7."""
    data = text.encode()
    if len(data) < 127:
        return bytes([len(data)]) + data
    prefix, rest = [127], len(data) - 127
    while rest >= 128:
        prefix.append(rest % 128 + 128)
        rest //= 128
    return bytes([*prefix, rest]) + data
