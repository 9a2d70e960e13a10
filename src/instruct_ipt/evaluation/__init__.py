"""Protocols, metrics and the benchmark."""
