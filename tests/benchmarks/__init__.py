"""Benchmarks, run by hand: `python -m tests.benchmarks.requests` and the others."""
