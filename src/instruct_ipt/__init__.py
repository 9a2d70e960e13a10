"""Instruct-IPT: one image-processing transformer for many restoration tasks, by low-rank weight modulation."""

__version__ = "0.1.0"
