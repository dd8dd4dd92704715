"""Shared code of the demo, the cluster tests and the benchmarks. Standard library only, so that any python3 runs it."""
