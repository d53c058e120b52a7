"""Fault-injection experiments on training runs: `python -m stress` or `make stress`."""
