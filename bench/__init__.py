"""Benchmarks: what is measured, and how. `python -m bench` (`make bench`) runs the first of them."""
