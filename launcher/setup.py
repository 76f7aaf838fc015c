"""``setup horovod``: builds Horovod for the installed PyTorch, installs it, and tries it.

Every command runs below a guard, as a worker does: whatever happens to this process, pip and its
compilers end with it.
"""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import psutil

from clusters.base import Slot, WorkerPlan
from clusters.cores import usable_cores
from clusters.local import LocalCluster
from launcher import signals
from launcher.build_log import Bar, Display, Lines, LogFollower, Silent, problems
from launcher.errors import UserError
from launcher.horovod_check import check
from launcher.output import Output
from launcher.scratch import scratch, writing
from launcher.supervise import Outcome, supervise
from strategies.horovod_build import (
    RUNTIME_NEEDS,
    VERSION,
    horovod_ready,
    kept_wheel,
    missing,
    plan_build,
    shelf,
)
from strategies.horovod_probe import Machine, probe

_COMPILER_BYTES = 2 * 1024**3  # the most that one compiler was seen to take: PyTorch's headers
_PIP = ("-m", "pip", "--disable-pip-version-check", "--no-input")

Interrupts = Callable[[], list[int]]


def setup_horovod(output: Output, *, force: bool = False) -> int:
    """Installs Horovod if it is not there, tries it, and returns the exit code.

    ``force`` builds again, whatever is there. Raises UserError naming all that is missing.
    """
    machine = probe(os.environ)
    with signals.noted() as interrupts:
        if force or horovod_ready() is not None:
            code = _Setup(machine, output, interrupts, force=force).run()
            if code:
                return code
        elif not output.quiet:
            output.say("Horovod is installed and built for this PyTorch; trying it")
        return check(machine.python, machine.cache, output, interrupts)


@dataclass(frozen=True)
class _Setup:
    """One installation, with a build before it where no wheel is kept."""

    machine: Machine
    output: Output
    interrupts: Interrupts
    force: bool

    def run(self) -> int:
        kept = None if self.force else kept_wheel(self.machine)
        if gaps := missing(self.machine, cached=kept is not None):
            raise UserError("\n".join(["Horovod cannot be installed here:", *gaps]))
        place = shelf(self.machine)
        with writing(place):
            place.mkdir(parents=True, exist_ok=True)
        log = place / f"{datetime.now():%Y%m%d-%H%M%S}-{os.getpid()}.log"
        # The build imports some of these too, and with them there it fetches nothing itself.
        steps: list[Callable[[], Outcome]] = [lambda: self._pip(log, "install", *RUNTIME_NEEDS)]
        if kept is None:
            steps.append(lambda: self._build(log))
        else:
            self._say(f"installing the Horovod that was built earlier: {kept}")
        self._say(f"log: {log}")
        steps.append(lambda: self._install(log))
        for step in steps:
            outcome = step()
            if outcome.exit_code:
                self._tell(outcome, log)
                return outcome.exit_code
        return 0

    def _build(self, log: Path) -> Outcome:
        """Builds a wheel and keeps it."""
        with scratch(self.machine.cache, "build-") as folder:
            build = plan_build(self.machine, folder.path, _jobs())
            for name, text in build.files.items():
                (build.folder / name).write_text(text)
                (build.folder / name).chmod(0o700)
            for name, target in build.links.items():
                (build.folder / name).symlink_to(target)
            self._say(
                f"building Horovod {VERSION} for PyTorch {build.torch}, some minutes with "
                f"{build.jobs} compilers at a time; GPU tensors: {build.gpu}"
            )
            outcome = self._pip(
                log,
                *("wheel", "-v", "--no-deps", "--no-build-isolation", "--no-binary", "horovod"),
                # pip's own cache would give back a wheel that was built for another PyTorch.
                *("--no-cache-dir", "--wheel-dir", str(build.folder), f"horovod=={VERSION}"),
                environ=build.environ,
                display=self._display(),
            )
            if outcome.exit_code == 0:
                for wheel in build.folder.glob("*.whl"):
                    keep(wheel, shelf(self.machine))
            return outcome

    def _install(self, log: Path) -> Outcome:
        wheel = str(kept_wheel(self.machine))
        return self._pip(log, "install", "--no-deps", "--force-reinstall", wheel)

    def _pip(
        self,
        log: Path,
        *words: str,
        environ: Mapping[str, str] | None = None,
        display: Display | None = None,
    ) -> Outcome:
        shown = display or Silent()
        plan = WorkerPlan(
            rank=0,
            slot=Slot(host=socket.gethostname(), host_index=0, local_rank=0),
            argv=(self.machine.python, *_PIP, *words),
            env=environ or {},
            log_path=log,
            events_path=log.with_suffix(".events"),
            result_path=log.with_suffix(".result"),
        )
        follower = LogFollower(log, shown)
        try:
            return supervise(
                LocalCluster(), [plan], interrupts=self.interrupts, watch=follower.look
            )
        finally:
            shown.close()

    def _display(self) -> Display:
        if self.output.quiet:
            return Silent()
        people = self.output.people
        return Bar(people) if people.is_terminal else Lines(self.output.say)

    def _say(self, text: str) -> None:
        if not self.output.quiet:
            self.output.say(text)

    def _tell(self, outcome: Outcome, log: Path) -> None:
        """Says what went wrong."""
        if outcome.signal:
            name = signals.name(outcome.signal)
            self.output.say(f"stopped by {name} before Horovod was installed")
        else:
            lines = problems(log.read_text(errors="replace"))
            self.output.say("\n".join(["Horovod was not installed:", *lines, f"log: {log}"]))


def keep(wheel: Path, shelf: Path) -> Path:
    """Puts a wheel on the shelf, in place of an earlier one; no reader sees a part of it."""
    kept = shelf / wheel.name
    temporary = shelf / f"{wheel.name}.tmp-{os.getpid()}"
    with writing(shelf):
        try:
            shutil.copyfile(wheel, temporary)
            temporary.replace(kept)
        finally:
            temporary.unlink(missing_ok=True)
    return kept


def _jobs() -> int:
    """How many compilers at a time: one a core, fewer where the memory is short."""
    return max(1, min(usable_cores(), psutil.virtual_memory().available // _COMPILER_BYTES))
