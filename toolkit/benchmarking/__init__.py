"""Benchmarks: a list of training tasks, each of which makes one run directory."""
