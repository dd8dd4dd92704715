"""What the demo, the cluster tests and the benchmarks share; standard library only, so that any python3 runs it."""
