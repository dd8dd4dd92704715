"""The running operator: what wakes it, its queue, the reconciler, health and metrics."""
