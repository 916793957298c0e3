"""Benchmarks: each compares within one run, as a ratio."""
