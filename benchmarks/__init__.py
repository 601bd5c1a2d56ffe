"""Benchmarks: `python -m benchmarks` from the checkout's root, or `make bench`."""
