"""Benchmarks that run the launcher and its competitor in turns. They are no tests."""
