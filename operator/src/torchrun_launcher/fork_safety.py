"""Decides whether the server can be forked: threads, child processes and an initialized GPU driver forbid it."""

from __future__ import annotations

import os
import threading

CUDA_NOT_INITIALIZED = 3


def obstacle(workers: set[int]) -> str:
    """Return why this process, whose workers are known, must not be forked; empty if it can be."""
    if threading.active_count() > 1:
        return "there are threads, which a worker would not have,"
    if children() - workers:
        return "there are processes, which workers would share,"
    if os.environ.get("KINETO_USE_DAEMON"):
        return "KINETO_USE_DAEMON starts a thread, which a worker would not have,"
    if _cuda_is_initialized():
        return "the GPU driver is initialized, which a worker could not use,"
    return ""


def children() -> set[int]:
    """Return the processes that this one has started."""
    try:
        with open(f"/proc/self/task/{os.getpid()}/children") as file:
            return set(map(int, file.read().split()))
    except FileNotFoundError:
        return set()


def threads() -> int:
    """Return the number of threads of this process, those of libraries included."""
    return len(os.listdir("/proc/self/task"))


def _cuda_is_initialized() -> bool:
    """Ask the driver, if it is loaded: before cuInit, all calls fail with that very error."""
    with open("/proc/self/maps") as file:
        if "libcuda.so" not in file.read():
            return False
    import ctypes  # noqa: PLC0415 - torch has loaded it

    count = ctypes.c_int()
    answer: int = ctypes.CDLL("libcuda.so.1").cuDeviceGetCount(ctypes.byref(count))
    return answer != CUDA_NOT_INITIALIZED
