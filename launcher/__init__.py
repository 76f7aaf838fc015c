"""The command, and what it decides: placing, starting, supervising, measuring, reporting."""

__version__ = "0.1.0"
