"""Measured speed: `python -m benchmarks` runs everything and writes results and tables."""
