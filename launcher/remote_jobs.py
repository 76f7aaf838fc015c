"""A Ray cluster's job server, through its REST interface: no Ray is imported, nor needed here."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from http.client import HTTPException, IncompleteRead
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import quote, urlsplit
from urllib.request import Request, urlopen

from clusters.ray_access import denied, find_access, unreachable
from launcher.errors import UserError
from launcher.job import Given
from launcher.shipment import Package

_TIMEOUT_S = 10.0
_SUBMIT_TIMEOUT_S = 60.0  # the server waits for its agent
_VARIABLES = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")  # in Ray's order
_SCHEMES = ("http://", "https://")
_START = "`ray start --head --dashboard-host 0.0.0.0`, with ray[default] installed"


class Unreachable(UserError):
    """The job server did not answer; it may do so later."""


@dataclass(frozen=True, kw_only=True)
class RemoteJob:
    """A job as its server tells of it. Times are in seconds since 1970, None if not yet.

    ``status``: PENDING, RUNNING, STOPPED, SUCCEEDED or FAILED; ``exit_code``: the command's,
    negative for a signal, None if it was never started or was stopped.
    """

    id: str
    status: str
    entrypoint: str
    message: str
    exit_code: int | None
    started: float | None
    ended: float | None

    @property
    def is_over(self) -> bool:
        return self.status in ("STOPPED", "SUCCEEDED", "FAILED")


class JobServer:
    """The job server at ``address``, http://host:port. Every call raises UserError."""

    def __init__(self, address: Given, environ: Mapping[str, str]) -> None:
        self.url = str(address.value).rstrip("/")
        self._who = f"job server {self.url} ({address.source})"
        self._environ = environ
        self._access = find_access(environ, Path.home())

    def version(self) -> str:
        """The version of Ray that the cluster runs."""
        answer = self._json("GET", "/api/version")
        if not isinstance(answer, dict) or "ray_version" not in answer:
            raise self._no_job_server()
        return str(answer["ray_version"])

    def upload(self, package: Package) -> str:
        """Sends a package if it is not there yet, and gives its address in the cluster."""
        path = f"/api/packages/gcs/{package.name}"
        try:
            self._call("GET", path)
        except _NotFound:
            self._call("PUT", path, package.data, _SUBMIT_TIMEOUT_S)
        return f"gcs://{package.name}"

    def submit(self, job_id: str, entrypoint: str, runtime_env: Mapping[str, Any]) -> None:
        order = {
            "submission_id": job_id,
            "entrypoint": entrypoint,
            "runtime_env": dict(runtime_env),
        }
        self._json("POST", "/api/jobs/", json.dumps(order).encode(), _SUBMIT_TIMEOUT_S)

    def job(self, job_id: str) -> RemoteJob:
        return _job(self._of(job_id, "GET", ""))

    def knows(self, job_id: str) -> bool:
        """Whether a job, running or over, has this name."""
        return any(job.id == job_id for job in self.jobs())

    def log(self, job_id: str) -> str:
        """All that the job has printed so far."""
        return str(self._of(job_id, "GET", "/logs")["logs"])

    def stop(self, job_id: str) -> bool:
        """Asks the job to end; Ray kills it 3 seconds later. False if it had ended already."""
        return bool(self._of(job_id, "POST", "/stop")["stopped"])

    def jobs(self) -> list[RemoteJob]:
        """Those that were submitted, the oldest first."""
        answers = [a for a in self._json("GET", "/api/jobs/") if a.get("submission_id")]
        return sorted((_job(answer) for answer in answers), key=lambda job: job.started or 0)

    def _of(self, job_id: str, method: str, what: str) -> dict[str, Any]:
        try:
            answer = self._json(method, f"/api/jobs/{quote(job_id, safe='')}{what}")
        except _NotFound:
            raise UserError(
                f"job {job_id}: {self._who} knows none of this name; `launcher status` lists them"
            ) from None
        if not isinstance(answer, dict):
            raise self._no_job_server()
        return answer

    def _json(
        self, method: str, path: str, data: bytes | None = None, timeout_s: float = _TIMEOUT_S
    ) -> Any:
        try:
            return json.loads(self._call(method, path, data, timeout_s))
        except ValueError:
            raise self._no_job_server() from None

    def _call(
        self, method: str, path: str, data: bytes | None = None, timeout_s: float = _TIMEOUT_S
    ) -> bytes:
        request = Request(self.url + path, data=data, method=method)
        request.add_header("Content-Type", "application/json")
        if self._access.sent:
            request.add_header("Authorization", f"Bearer {self._access.sent}")
        try:
            with urlopen(request, timeout=timeout_s) as response:
                body: bytes = response.read()
                return body
        except HTTPError as error:
            with error:
                raise self._refusal(error.code, error.read().decode(errors="replace")) from None
        except URLError as error:
            reason = error.reason if isinstance(error.reason, OSError) else OSError(error.reason)
            raise Unreachable(unreachable(self._who, reason, _START)) from None
        except OSError as error:
            raise Unreachable(unreachable(self._who, error, _START)) from None
        except IncompleteRead:
            raise Unreachable(f"{self._who}: the connection ended in mid-answer") from None
        except HTTPException:
            raise self._no_job_server() from None

    def _refusal(self, code: int, text: str) -> UserError:
        """What an answer that is no success means."""
        if code in (401, 403):
            return UserError(denied(self._who, self._access, self._environ))
        if code == 404:
            return _NotFound(self._no_job_server())
        lines = [line for line in text.splitlines() if line.strip(" .")]
        cause = lines[-1].rpartition("Error: ")[2] if lines else "no reason is given"
        kind = Unreachable if code >= 500 else UserError
        return kind(f"{self._who} refuses (HTTP {code}): {cause}")

    def _no_job_server(self) -> UserError:
        return UserError(
            f"{self._who}: something listens there that is no job server of Ray; it is at port "
            "8265 of a head unless `ray start --head --dashboard-port` set another"
        )


class _NotFound(UserError):
    """The server answered 404."""


def connect(address: str | None, environ: Mapping[str, str] = os.environ) -> JobServer:
    """The server that --address names, else Ray's variables for it; it has answered.

    RAY_ADDRESS counts if it is an http address. Raises UserError.
    """
    given = Given(address, "--address")
    if address is None:
        source = (
            "RAY_API_SERVER_ADDRESS" if environ.get("RAY_API_SERVER_ADDRESS") else "RAY_ADDRESS"
        )
        given = Given(environ.get(source, ""), source)
        if not given.value.startswith(_SCHEMES):
            raise UserError(
                "--address is missing: the job server of the cluster, such as http://head:8265"
                + (f" ({source}={given.value} is not one)" if given.value else "")
            )
    parts = urlsplit(given.value)
    if not given.value.startswith(_SCHEMES) or not parts.hostname:
        raise UserError(
            f"{given.source} {given.value}: is no job server's address; it begins with http://, "
            "such as http://head:8265"
        )
    server = JobServer(given, environ)
    server.version()
    return server


def _job(answer: Mapping[str, Any]) -> RemoteJob:
    started, ended = answer.get("start_time"), answer.get("end_time")
    return RemoteJob(
        id=str(answer.get("submission_id")),
        status=str(answer.get("status")),
        entrypoint=str(answer.get("entrypoint")),
        message=str(answer.get("message") or ""),
        exit_code=answer.get("driver_exit_code"),
        started=started / 1000 if started else None,
        ended=ended / 1000 if ended else None,
    )
