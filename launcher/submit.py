"""Submitting a training to a Ray cluster's job server, and coming back to it."""

from __future__ import annotations

import re
import secrets
import shlex
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from launcher import homecoming
from launcher.errors import UserError
from launcher.follow import Follower
from launcher.job import Given, choose_strategy, resolve
from launcher.output import Output
from launcher.prepare import choose_folder
from launcher.remote_jobs import JobServer, RemoteJob
from launcher.shipment import collect, describe, pack
from strategies import load_strategy
from strategies.mnist.data import check

NEEDS = (
    *("numpy>=1.26,<3", "nvidia-ml-py>=12.535", "psutil>=6", "pydantic>=2.9,<3", "PyYAML>=6"),
    *("rich>=13.7", "safetensors>=0.4", "typer>=0.29"),
)
"""What the launcher needs beside a framework and Ray; with --pip, Ray installs it for the job."""
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True, kw_only=True)
class Submission:
    """What ``submit`` was asked for. ``arguments`` are the training's, ``given`` what they say."""

    arguments: Sequence[str]
    given: Mapping[str, Given]
    job_id: str | None
    out: Path | None
    working_dir: Path | None
    excludes: Sequence[str]
    pip: bool
    detach: bool


def submit_job(server: JobServer, asked: Submission, output: Output) -> int:
    """Sends a training and follows it; returns its exit code. Raises UserError."""
    _check(asked)
    if asked.job_id and server.knows(asked.job_id):
        raise UserError(f"--id {asked.job_id}: a job at {server.url} has this name; take another")
    job_id = asked.job_id or f"troika-{secrets.token_hex(4)}"
    folder = choose_folder(asked.out, f"submit-{job_id}")
    working_dir = asked.working_dir
    if working_dir is None and "script" in asked.given:
        working_dir = Path.cwd()
    items = collect(working_dir, asked.excludes)
    package = pack(items)
    if not output.quiet:
        output.say(describe(items, package, working_dir))
    runtime_env = {
        "working_dir": server.upload(package),
        "env_vars": job_variables(asked.given, detach=asked.detach),
        **({"pip": list(NEEDS)} if asked.pip else {}),
    }
    server.submit(job_id, entrypoint(asked.arguments), runtime_env)
    if asked.detach:
        print(job_id)
        return 0
    if not output.quiet:
        output.say(f"job {job_id} at {server.url}")
    return Follower(server, job_id, folder, output).follow()


def entrypoint(arguments: Sequence[str]) -> str:
    """The shell's line that the cluster's head runs; Ray sets RAY_ADDRESS there."""
    return shlex.join(["python", "-m", "launcher", *arguments])


def job_variables(given: Mapping[str, Given], *, detach: bool) -> dict[str, str]:
    """The job's variables: the settings that come from ours, and the order to send files home."""
    settings = {
        value.source: str(value.value)
        for value in given.values()
        if value.source.startswith("TROIKA_")
    }
    # Tables have the width of whoever reads them.
    width = {} if detach else {"COLUMNS": str(shutil.get_terminal_size((100, 24)).columns)}
    return {**settings, homecoming.VARIABLE: "1", **width}


def list_jobs(server: JobServer, job_id: str | None, output: Output) -> None:
    """Says how a job is, or all of them. Raises UserError."""
    jobs = [server.job(job_id)] if job_id else server.jobs()
    for job in jobs:
        output.say(line(job))
    if job_id and jobs[0].status == "FAILED" and jobs[0].exit_code is None:
        output.say(jobs[0].message)
    if not jobs:
        output.say(f"no job was submitted to {server.url}")


def line(job: RemoteJob) -> str:
    """A job in one line."""
    words = [job.id, job.status.lower()]
    if job.exit_code is not None:
        words.append(f"exit code {job.exit_code}")
    if job.started is not None:
        words.append(f"since {datetime.fromtimestamp(job.started):%Y-%m-%d %H:%M:%S}")
        if job.ended is not None:
            words.append(f"for {job.ended - job.started:.0f} s")
    return f"{', '.join(words)}: {job.entrypoint}"


def show_log(
    server: JobServer, job_id: str, out: Path | None, output: Output, *, follow: bool
) -> int:
    """Prints a job's log, to its end with ``follow``, and brings its files home into ``out``.

    Returns the job's exit code if it is over, 0 if not. Raises UserError.
    """
    folder = None if out is None else choose_folder(out, job_id)
    follower = Follower(server, job_id, folder, output)
    return follower.follow() if follow else follower.look()


def stop_job(server: JobServer, job_id: str, output: Output) -> None:
    """Asks a job to end. Raises UserError."""
    said = "is asked to end" if server.stop(job_id) else "had ended already"
    if not output.quiet:
        output.say(f"job {job_id} {said}")


def _check(asked: Submission) -> None:
    """Refuses what would be refused on the cluster. Raises UserError."""
    if asked.job_id is not None and not _ID.fullmatch(asked.job_id):
        raise UserError(
            f"--id {asked.job_id}: must begin with a letter or a digit, and have only these and "
            "-, _ and . in it"
        )
    if "address" in asked.given:
        address = asked.given["address"]
        raise UserError(
            f"{address.source} {address.value}: not behind the --; the job runs on the cluster "
            "that it is submitted to"
        )
    cluster = asked.given.get("cluster")
    if cluster is not None and asked.working_dir is None and Path(cluster.value).is_file():
        raise UserError(
            f"{cluster.source} {cluster.value}: this file is here, and not on the cluster; send "
            "its folder along with --working-dir"
        )
    if not asked.given.keys() & {"script", "resume", "data_dir"}:  # these may be there, not here
        strategy = load_strategy(choose_strategy(asked.given, None))
        resolve(
            asked.given,
            default_gpus=1,
            samples=check(None),
            checkpoint=None,
            exchanges=strategy.exchanges,
        )
