"""A temporary folder that goes when nobody has it any more, however everybody ends."""

from __future__ import annotations

import os
import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path


class SweptFolder:
    """``path`` is removed when no process holds ``descriptor`` any more.

    Whoever is started with it holds it, and so do its children. A process of some 1 MB waits for
    the end of the pipe.
    """

    def __init__(self) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="troika-"))
        held, self.descriptor = os.pipe()
        self._sweeper = subprocess.Popen(
            ["sh", "-c", 'read -r _; rm -rf "$0"', str(self.path)],
            stdin=held,
            start_new_session=True,
        )
        os.close(held)

    def close(self) -> None:
        """Lets go of it, and waits a moment: the others have ended, or are about to."""
        os.close(self.descriptor)
        with suppress(subprocess.TimeoutExpired):
            self._sweeper.wait(5.0)
