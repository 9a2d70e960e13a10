"""Measurements of speed and memory, as ratios: each module runs with `python -m benchmarks.<name>`."""
