"""The programs that a Slurm script calls, played; each notes its call in the file ``calls``."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from itertools import takewhile
from pathlib import Path
from typing import Any


def note(**what: Any) -> None:
    folder = Path(os.environ["FAKE_SLURM"])
    with (folder / "calls").open("a") as file:
        file.write(json.dumps(what) + "\n")


def end_on_sigterm() -> None:
    def end(number: int, frame: object) -> None:
        note(program=Path(sys.argv[0]).name, ended="SIGTERM")
        sys.exit(143)

    signal.signal(signal.SIGTERM, end)


def srun() -> None:
    """Runs its command here, once for each task, and passes SIGTERM on."""
    options = list(takewhile(lambda word: word.startswith("--"), sys.argv[1:]))
    note(program="srun", arguments=sys.argv[1:])
    tasks: list[subprocess.Popen[bytes]] = []

    def pass_on(number: int, frame: object) -> None:
        for task in tasks:
            task.send_signal(number)

    signal.signal(signal.SIGTERM, pass_on)
    count = next(int(option.partition("=")[2]) for option in options if "--ntasks=" in option)
    tasks += [subprocess.Popen(sys.argv[1 + len(options) :]) for _ in range(count)]
    sys.exit(max(abs(task.wait()) for task in tasks))


def scontrol() -> None:
    print("\n".join(os.environ["SLURM_JOB_NODELIST"].split(",")))


def ray() -> None:
    """Runs until SIGTERM, the head with its port open; or fails at once."""
    if os.environ["FAKE_RAY"] == "fails":
        sys.exit("ray: something is wrong")
    end_on_sigterm()
    arguments = sys.argv[1:]
    note(program="ray", arguments=arguments, token=os.environ["RAY_AUTH_TOKEN"])
    options = dict(word.partition("=")[::2] for word in arguments)
    if "--head" in options:
        listener = socket.create_server((options["--node-ip-address"], int(options["--port"])))
        listener.listen()
    while True:
        signal.pause()


def python() -> None:
    """The launcher; or the script's own look whether all nodes have joined."""
    if sys.argv[1] == "-":
        while started() < int(sys.argv[4]):
            time.sleep(0.02)
        sys.exit(0)
    if os.environ["FAKE_LAUNCHER"] == "hangs":
        end_on_sigterm()
    note(program="python", arguments=sys.argv[1:], token=os.environ["RAY_AUTH_TOKEN"])
    if os.environ["FAKE_LAUNCHER"] == "hangs":
        while True:
            signal.pause()
    sys.exit(int(os.environ["FAKE_LAUNCHER"]))


def started() -> int:
    """How many of Ray's nodes have been started."""
    calls = Path(os.environ["FAKE_SLURM"]) / "calls"
    return calls.read_text().count('"program": "ray"')
