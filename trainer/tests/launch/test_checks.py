"""What torchrun has started, compared with what the script needs."""

import logging
import re
import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist

from torchrun_trainer import LaunchError, Run, check_launch

VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "PET_NNODES", "CUDA_VISIBLE_DEVICES")


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Set torchrun's environment, and a process group of (rank, world size, backends), None for no group."""

    def launch(environment: dict[str, str], group: tuple[int, int, str] | None, devices: int = 0) -> None:
        for name in VARIABLES:
            monkeypatch.delenv(name, raising=False)
        monkeypatch.delitem(sys.modules, "accelerate.state", raising=False)  # left over from another test
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(dist, "is_initialized", lambda: group is not None)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: devices)
        if group is not None:
            monkeypatch.setattr(dist, "get_rank", lambda: group[0])
            monkeypatch.setattr(dist, "get_world_size", lambda: group[1])
            monkeypatch.setattr(dist, "get_backend_config", lambda: group[2])

    return launch


def torchrun(rank: int, world: int, local_rank: int = 0, local_world: int = 1, **more: str) -> dict[str, str]:
    values = {"RANK": rank, "WORLD_SIZE": world, "LOCAL_RANK": local_rank, "LOCAL_WORLD_SIZE": local_world}
    return {**{name: str(value) for name, value in values.items()}, **more}


GLOO, BOTH = "cpu:gloo", "cpu:gloo,cuda:nccl"


@pytest.mark.parametrize(
    ("environment", "group", "devices", "needs"),
    [
        ({}, None, 0, {}),
        ({}, None, 0, {"world_size": 1}),
        (torchrun(0, 1), None, 0, {}),
        (torchrun(1, 4), (1, 4, GLOO), 0, {"world_size": 4, "multiple_of": 2, "at_least": 4, "divisor_of": 96}),
        (torchrun(1, 4), (1, 4, GLOO), 0, {"at_most": 4}),
        ({}, (1, 4, GLOO), 0, {}),
        (torchrun(1, 2, 1, 2), (1, 2, BOTH), 2, {}),
        (torchrun(1, 2, 1, 2), (1, 2, GLOO), 1, {}),
        (torchrun(1, 2, 1, 2), (1, 2, BOTH), 0, {}),
        (torchrun(1, 2, 1, 2, CUDA_VISIBLE_DEVICES="1"), (1, 2, BOTH), 1, {}),
    ],
)
def test_what_fits(launched: Any, environment: Any, group: Any, devices: int, needs: dict[str, int]) -> None:
    launched(environment, group, devices)
    check_launch(**needs)


ALONE = (
    "torchrun has started 4 workers, but there is no process group: each would train alone. Write "
    "torch.distributed.init_process_group() before Run(...) and anything else that needs all ranks"
)
OTHER_GROUP = (
    "the process group has this worker as rank 1 of 2, but torchrun has started it as rank 3 of 4: write "
    "init_process_group() without rank and world_size, so that they come from RANK and WORLD_SIZE"
)


def no_gpu(rank: int, workers: int, devices: int) -> str:
    return (
        f"local rank {rank} has no GPU: {workers} workers were started on a node that has {devices} "
        f"(CUDA_VISIBLE_DEVICES is None): write --nproc-per-node={devices}, in a TorchrunJob nprocPerNode: {devices}, "
        "or give the container as many GPUs as it has workers"
    )


def misfit(size: int, needs: str) -> str:
    return (
        f"the world size is {size}, but this script needs {needs}: change the number of nodes (nnodes, replicas) or "
        "of workers per node (nproc-per-node, now 1)"
    )


@pytest.mark.parametrize(
    ("environment", "group", "devices", "needs", "message"),
    [
        (
            torchrun(1, 4),
            None,
            0,
            {},
            ALONE,
        ),
        (torchrun(3, 4), (1, 2, GLOO), 0, {}, OTHER_GROUP),
        (torchrun(2, 4, 2, 4), (2, 4, BOTH), 2, {}, no_gpu(2, workers=4, devices=2)),
        (torchrun(1, 2, 1, 2), (1, 2, BOTH), 1, {}, no_gpu(1, workers=2, devices=1)),
        (torchrun(1, 3), (1, 3, GLOO), 0, {"world_size": 4}, misfit(3, "exactly 4 workers")),
        (torchrun(1, 3), (1, 3, GLOO), 0, {"multiple_of": 2}, misfit(3, "a multiple of 2 workers")),
        (torchrun(1, 3), (1, 3, GLOO), 0, {"divisor_of": 64}, misfit(3, "a number of workers that divides 64")),
        (torchrun(1, 3), (1, 3, GLOO), 0, {"at_least": 4}, misfit(3, "at least 4 workers")),
        (torchrun(1, 3), (1, 3, GLOO), 0, {"at_most": 2}, misfit(3, "at most 2 workers")),
        ({}, None, 0, {"at_least": 2}, misfit(1, "at least 2 workers")),
    ],
)
def test_what_does_not(
    launched: Any, environment: Any, group: Any, devices: int, needs: dict[str, int], message: str
) -> None:
    launched(environment, group, devices)
    with pytest.raises(LaunchError, match=f"^{re.escape(message)}$"):
        check_launch(**needs)


def allowed(sizes: str, needs: str) -> str:
    return f"nnodes allows a world size of {sizes}, but this script needs {needs} workers"


@pytest.mark.parametrize(
    ("nnodes", "rank", "needs", "warnings"),
    [
        (
            "2:4",
            0,
            {"multiple_of": 4},
            [allowed("6", "a multiple of 4")],
        ),
        ("1:8", 0, {"world_size": 4}, [allowed("2, 6, 8, 10, 12, …", "exactly 4")]),
        ("2:4", 1, {"multiple_of": 4}, []),
        ("2:4", 0, {"multiple_of": 2}, []),
        ("2", 0, {"multiple_of": 4}, []),
        ("2:1048576", 0, {"multiple_of": 4}, []),
        (
            "1:1048576",
            0,
            {"at_least": 4},
            [allowed("2", "at least 4")],
        ),
        ("2:", 0, {"multiple_of": 4}, []),
        ("many", 0, {"multiple_of": 4}, []),
    ],
)
def test_worlds_that_a_resize_may_lead_to(
    launched: Any, caplog: pytest.LogCaptureFixture, nnodes: str, rank: int, needs: dict[str, int], warnings: list[str]
) -> None:
    launched(torchrun(rank, 4, 0, 2, PET_NNODES=nnodes), (rank, 4, GLOO))
    with caplog.at_level(logging.WARNING):
        check_launch(**needs)
    assert caplog.messages == warnings


def test_a_run_checks_by_itself(launched: Any) -> None:
    launched(torchrun(0, 2), None)
    with pytest.raises(LaunchError, match="there is no process group: each would train alone"):
        Run()


@pytest.mark.parametrize(
    ("initialized", "processes", "refused"), [(True, 1, True), (True, 4, False), (False, 1, False)]
)
def test_accelerate_must_know_of_the_other_workers(
    launched: Any, monkeypatch: pytest.MonkeyPatch, initialized: bool, processes: int, refused: bool
) -> None:
    launched(torchrun(1, 4), (1, 4, GLOO))
    state = SimpleNamespace(
        is_initialized=lambda: initialized, PartialState=lambda: SimpleNamespace(num_processes=processes)
    )
    monkeypatch.setitem(sys.modules, "accelerate.state", state)
    if not refused:
        check_launch()
        return
    message = "Accelerate knows of 1 process, but there are 4 workers: each would train alone. Without GPUs write"
    with pytest.raises(LaunchError, match=message):
        check_launch()
