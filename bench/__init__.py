"""Benchmarks. Each compares side by side in one run and prints ratios: absolute figures depend on the machine."""
