"""What is told to a user as a sentence, without a traceback."""

from __future__ import annotations


class UserError(Exception):
    """A mistake in what was asked for; the text names the value, its origin and what to do."""


class NotSetUp(UserError):
    """A strategy that this machine is not ready for; ``what`` is the name for the command setup."""

    def __init__(self, text: str, what: str) -> None:
        super().__init__(text)
        self.what = what
