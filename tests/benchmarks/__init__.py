"""Benchmarks for people, run by hand: `python -m tests.benchmarks.requests` and its siblings."""
