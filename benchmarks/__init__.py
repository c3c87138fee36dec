"""Benchmarks, one file a subject; `results/` holds dated measurements."""
