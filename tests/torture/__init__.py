"""Harnesses that break things on purpose: kills, full disks, dead servers, hostile bytes, many clients at once.

Every one runs in a short form with the other tests and in full with `make torture` (`pytest --torture`), which also
writes `docs/reliability.json` and the table of `docs/reliability.md`.
"""
