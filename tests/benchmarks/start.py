"""Seconds from the command to the first optimizer step: the launcher against torchrun.

Two workers train LeNet on CPUs. Both sides' programs and data are in the page cache: an unmeasured
round comes first. The reference holds the data as raw files, the launcher unpacks its own.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from tests.benchmarks.children import guarded
from tests.benchmarks.figures import Row, show
from tests.benchmarks.side_by_side import (
    Training,
    alternate,
    launcher,
    parse_repeats,
    reference,
    write_mnist,
)

_TRAINING = Training(workers=2, model="lenet", batch_size=100, steps=20)
_TARGET = 0.75


def main() -> None:
    repeats = parse_repeats(__doc__)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_mnist(folder)

        def torchrun_start() -> float:
            result = reference(folder, _TRAINING)
            return result["first_step"] - result["started"]

        def launcher_start() -> float:
            return float(launcher(folder, _TRAINING)["time_to_first_step_s"])

        sides = {"torchrun": torchrun_start, "launcher": launcher_start}
        alternate(1, sides, "warm-up")
        values = alternate(repeats, sides, "start")
    row = Row(
        name="lenet 100, 2 workers",
        reference=values["torchrun"],
        ours=values["launcher"],
        target=_TARGET,
    )
    title = "Seconds from the command to the first optimizer step"
    show(title, ("torchrun", "launcher"), [row], decimals=2, lower_is_better=True)


if __name__ == "__main__":
    guarded(main)
