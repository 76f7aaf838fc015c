"""Whether a Ray cluster can be reached, and in plain words why not. No Ray is imported.

Where a token is missing or wrong, Ray 2.60 says "Failed to connect to Ray cluster" after 20 seconds
of trying, through a ray:// address "ray client connection timeout" after 30; its job server answers
401 or 403 at once. The words here name what to set.
"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from urllib.parse import urlsplit

from clusters.grpc_ping import CLIENT_CALL, HEAD_CALL, UNAUTHENTICATED, Answer, ping

_TIMEOUT_S = 3.0
_CLIENT_PORT = 10001  # of ray:// addresses without one, as Ray has it
_HEAD_TOKEN = "`ray get-auth-token` prints it on the cluster's head"
_DENIED = ("unauthenticated", "invalidauthtoken", "authentication token", "ray_auth_token")
_MISMATCH = re.compile(r"Ray: (\S+)\s+Python: (\S+)")
_NOISE = ("traceback", "file ", "the above exception", "during handling")


@dataclass(frozen=True, kw_only=True)
class Access:
    """The token that Ray would use here, and where it was found; "" for none.

    ``mode``: RAY_AUTH_MODE in small letters; only with "token" does Ray send the token.
    """

    mode: str
    token: str
    source: str

    @property
    def sent(self) -> str:
        return self.token if self.mode == "token" else ""


def find_access(environ: Mapping[str, str], home: Path) -> Access:
    """The token as Ray looks for it: in a variable, in a file that one names, in ``home``."""
    mode = environ.get("RAY_AUTH_MODE", "").lower()
    if token := environ.get("RAY_AUTH_TOKEN", "").strip():
        return Access(mode=mode, token=token, source="RAY_AUTH_TOKEN")
    named = environ.get("RAY_AUTH_TOKEN_PATH")
    path = Path(named) if named else home / ".ray/auth_token"
    with suppress(OSError, UnicodeDecodeError):
        if token := path.read_text().strip():
            return Access(mode=mode, token=token, source=str(path))
    return Access(mode=mode, token="", source="")


def check(address: str, environ: Mapping[str, str], home: Path | None = None) -> str | None:
    """Why ``ray.init(address)`` would fail, None if nothing speaks against it. Takes 3 s at most.

    ``address``: auto, host:port or ray://host:port.
    """
    if address == "auto":
        found = find_local(environ)
        if found is None:
            return (
                f"ray cluster auto: no Ray runs on this host, and neither RAY_ADDRESS nor "
                f"{address_file(environ)} names one; start one (`ray start --head`), or give "
                "--address host:port"
            )
        address = found
    if environ.get("RAY_USE_TLS", "0").lower() in ("1", "true"):
        return None  # what asks here speaks plain text
    try:
        host, port = split(address)
    except ValueError as error:
        return f"ray cluster {address}: {error}"
    access = find_access(environ, home or Path.home())
    try:
        call = CLIENT_CALL if address.startswith("ray://") else HEAD_CALL
        answer = ping(host, port, call, access.sent, _TIMEOUT_S)
    except OSError as error:
        start = "`ray start --head`"
        start += ", with ray[client] installed" if address.startswith("ray://") else ""
        return unreachable(f"ray cluster {address}", error, start)
    return judge(address, answer, access, environ)


def judge(address: str, answer: Answer, access: Access, environ: Mapping[str, str]) -> str | None:
    """What speaks against the head that has given ``answer``; None for nothing."""
    if answer.status is None:
        what = "a web server" if answer.web else "something that is no Ray head"
        return (
            f"ray cluster {address}: {what} listens there; a head's own port is 6379 unless "
            "`ray start --head --port` set another, 10001 is for ray://, 8265 its job server's"
        )
    if answer.status == UNAUTHENTICATED:
        return denied(f"ray cluster {address}", access, environ)
    with suppress(PackageNotFoundError):
        if answer.version and answer.version != version("ray"):
            return _mismatch(address, f"Ray {answer.version}", f"Ray {version('ray')}")
    return None


def explain(text: str, address: str, environ: Mapping[str, str], home: Path) -> str:
    """What Ray said, in plain words where it is known; else its first line that says something."""
    known = text.lower()
    if any(word in known for word in _DENIED):
        return denied(f"ray cluster {address}", find_access(environ, home), environ)
    versions = _MISMATCH.findall(text)
    if "version mismatch" in known and len(versions) == 2:
        theirs, ours = (f"Ray {ray}, Python {python}" for ray, python in versions)
        return _mismatch(address, theirs, ours)
    if address.startswith("ray://") and ("ray client" in known or "connection" in known):
        return (
            f"ray cluster {address}: no Ray client server answers; the head serves it at port "
            f"{_CLIENT_PORT} (`ray start --head --ray-client-server-port`), if ray[client] is "
            "installed there; on the cluster itself, take --address auto"
        )
    if "failed to connect to ray cluster" in known:
        return (
            f"ray cluster {address}: its head does not answer Ray's calls; is it still up "
            "(`ray status` there), and is it a Ray of this version?"
        )
    return f"ray cluster {address}: {_first_words(text)}"


def denied(who: str, access: Access, environ: Mapping[str, str]) -> str:
    """The sentence for a cluster, or job server, that does not let us in with this access."""
    if access.mode != "token" and access.token:
        return (
            f'{who} asks for a token, and RAY_AUTH_MODE is not "token" here, so the one in '
            f"{access.source} was not sent: set RAY_AUTH_MODE=token"
        )
    if access.mode != "token":
        return (
            f"{who} asks for a token, and there is none here: set RAY_AUTH_MODE=token and put the "
            f"token into RAY_AUTH_TOKEN or ~/.ray/auth_token; {_HEAD_TOKEN}"
        )
    if not access.token:
        named = environ.get("RAY_AUTH_TOKEN_PATH")
        place = f"RAY_AUTH_TOKEN_PATH={named}" if named else "~/.ray/auth_token"
        return (
            f"{who} asks for a token; RAY_AUTH_MODE=token, but neither RAY_AUTH_TOKEN nor {place} "
            f"has one: {_HEAD_TOKEN}"
        )
    return f"{who} refuses the token of {access.source}: it is another cluster's; {_HEAD_TOKEN}"


def unreachable(who: str, error: OSError, start: str) -> str:
    """The sentence for a connection that did not come about; ``start`` is what starts a server."""
    if isinstance(error, socket.gaierror):
        return f"{who}: no host of this name is known"
    if isinstance(error, TimeoutError):
        return f"{who}: no answer; is the host up, and does a firewall let this port through?"
    reason = (error.strerror or str(error)).lower()
    return f"{who}: {reason}; is Ray started there ({start}), and with this port?"


def split(address: str) -> tuple[str, int]:
    """Host and port of host:port or ray://host:port. Raises ValueError naming them."""
    scheme, _, rest = address.rpartition("://")
    if scheme in ("http", "https"):
        raise ValueError("is a job server's address; take the head's own, host:6379, or auto")
    if scheme not in ("", "ray"):
        raise ValueError("is no address of a cluster: give auto, host:port or ray://host:port")
    try:
        parts = urlsplit(f"//{rest}")
        port = parts.port or (_CLIENT_PORT if scheme else None)
    except ValueError:
        port = None
    if port is None or not parts.hostname:
        raise ValueError("has no host and port: give auto, host:port or ray://host:port")
    return parts.hostname, port


def find_local(environ: Mapping[str, str]) -> str | None:
    """The cluster that Ray means by "auto": RAY_ADDRESS, a running one, the last one started."""
    named = environ.get("RAY_ADDRESS", "")
    if named not in ("", "auto"):
        return named
    last = None
    with suppress(OSError):
        last = address_file(environ).read_text().strip() or None
    running = running_heads()
    return last if last and (len(running) > 1 or not running) else next(iter(running), None)


def address_file(environ: Mapping[str, str]) -> Path:
    """Where ``ray start`` writes down its head's address."""
    folder = environ.get("RAY_TMPDIR") or environ.get("TMPDIR") or "/tmp"
    return Path(folder) / "ray/ray_current_cluster"


def running_heads() -> list[str]:
    """The addresses of the heads to which raylets on this host belong."""
    found = set()
    for name in os.listdir("/proc"):  # noqa: PTH208 - as fast as it can be
        with suppress(OSError):
            if name.isdigit():
                words = Path(f"/proc/{name}/cmdline").read_bytes().split(b"\0")
                if words[0].endswith(b"/raylet"):
                    found |= {w[14:].decode() for w in words if w.startswith(b"--gcs-address=")}
    return sorted(found)


def _mismatch(address: str, theirs: str, ours: str) -> str:
    return (
        f"ray cluster {address}: it runs {theirs}, and this process has {ours}; install the "
        "cluster's versions here, or start this on the cluster (`launcher submit`)"
    )


def _first_words(text: str) -> str:
    """The first line of an error, or of a traceback's end, that says something."""
    lines = [line.strip() for line in text.splitlines()]
    telling = [line for line in lines if line and not line.lower().startswith(_NOISE)]
    return telling[0] if telling else "Ray failed without a word"
