"""A pip that tests put before the real one: notes how it was called, and plays a build.

FAKE_PIP names its folder. ``wheel`` prints what the file ``output`` there holds; then, by the
word in the file ``end``, it fails, leaves an empty wheel, or hangs with a child, as compilers are.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path


def main() -> None:
    folder = Path(os.environ["FAKE_PIP"])
    words = [word for word in sys.argv[1:] if not word.startswith(("--disable", "--no-input"))]
    with (folder / "calls").open("a") as calls:
        calls.write(json.dumps(words) + "\n")
    if words[0] != "wheel":
        return
    print((folder / "output").read_text(), flush=True)
    end = (folder / "end").read_text()
    if end == "fail":
        sys.exit(1)
    if end == "hang":
        child = subprocess.Popen(["sleep", "60"])
        (folder / "hanging").touch()
        child.wait()
    place = Path(words[words.index("--wheel-dir") + 1])
    (place / "horovod-0.28.1-fake.whl").write_text(os.environ["MAKEFLAGS"])
