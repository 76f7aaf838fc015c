"""Build hook: refuses to package MNIST files whose SHA-256 is not the listed one."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

FOLDER = Path(__file__).parent / "idx"


def check_sums(folder: Path) -> None:
    """Checks every file listed in ``folder``/SHA256SUMS. Raises ValueError naming a wrong one."""
    for line in (folder / "SHA256SUMS").read_text().splitlines():
        expected, name = line.split()
        if not (folder / name).is_file():
            raise ValueError(f"{folder / name} is missing")
        actual = hashlib.sha256((folder / name).read_bytes()).hexdigest()
        if actual != expected:
            raise ValueError(f"{folder / name} has SHA-256 {actual}, expected {expected}")


class MnistCheck(BuildHookInterface[Any]):
    """Runs ``check_sums`` before anything is built."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        check_sums(FOLDER)
