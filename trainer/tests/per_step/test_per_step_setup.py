"""What a script and its environment must have for recovery step by step, and who saves the snapshots."""

import socket
import sys
from typing import Any

import pytest
import torch
from torch import nn

from torchrun_trainer.frameworks.driven import Driven
from torchrun_trainer.launch.checks import LaunchError
from torchrun_trainer.launch.fault_tolerance import Settings, settings
from torchrun_trainer.launch.ranks import Ranks
from torchrun_trainer.per_step.guards import guard
from torchrun_trainer.per_step.leading import LeadSaver
from torchrun_trainer.per_step.members import Members
from torchrun_trainer.per_step.quorum import own_address, unreachable
from torchrun_trainer.per_step.transport import imported
from torchrun_trainer.snapshots.saver import NoSaver

pytestmark = pytest.mark.torch

PER_STEP = {
    "TORCHRUN_FAULT_TOLERANCE": "PerStep",
    "TORCHFT_LIGHTHOUSE": "http://job-rdzv:29510",
    "REPLICA_GROUP_ID": "job-0",
}


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, None),
        ({"TORCHFT_LIGHTHOUSE": "http://a:1"}, None),  # a script that calls torchft itself
        ({**PER_STEP, "TORCHRUN_FAULT_TOLERANCE": "Restart"}, None),
        (PER_STEP, Settings("http://job-rdzv:29510", "job-0", 1)),
        ({**PER_STEP, "TORCHRUN_MIN_REPLICA_GROUPS": "3"}, Settings("http://job-rdzv:29510", "job-0", 3)),
    ],
)
def test_settings(variables: dict[str, str], expected: Settings | None, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert settings() == expected


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"TORCHRUN_FAULT_TOLERANCE": "perstep"}, "'perstep': write Restart or PerStep"),
        ({"TORCHFT_LIGHTHOUSE": ""}, "TORCHFT_LIGHTHOUSE is '': write the URL"),
        ({"TORCHFT_LIGHTHOUSE": "job-rdzv:29510"}, "write the URL"),
        ({"REPLICA_GROUP_ID": ""}, "REPLICA_GROUP_ID is empty"),
        ({"TORCHRUN_MIN_REPLICA_GROUPS": "0"}, "'0': write the number of groups"),
        ({"TORCHRUN_MIN_REPLICA_GROUPS": "two"}, "'two': write the number of groups"),
    ],
)
def test_settings_that_make_no_sense(variables: dict[str, str], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {**PER_STEP, **variables}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(LaunchError, match=message):
        settings()


def test_frameworks_cannot(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in PER_STEP.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(LaunchError, match="a framework with a loop of its own cannot recover"):
        Driven()


def test_torchft_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchft", None)
    with pytest.raises(LaunchError, match=r"pip install 'torchrun-trainer\[torchft\]'"):
        imported()


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ([nn.Linear(1, 1)], "needs the model wrapped in DistributedDataParallel"),
        ([], "needs the model wrapped"),
    ],
)
def test_state_that_cannot_recover(state: list[object], message: str) -> None:
    with pytest.raises(LaunchError, match=message):
        guard(state, None)  # type: ignore[arg-type]


class Votes:
    """A quorum whose votes are known."""

    def __init__(self, *, commits: bool, averaged: bool = True) -> None:
        self.commits = commits
        self.averaged = averaged

    def committed(self) -> bool:
        return self.commits


@pytest.mark.parametrize("commits", [True, False])
def test_optimizers_and_schedulers_step_only_if_the_step_counts(
    monkeypatch: pytest.MonkeyPatch, *, commits: bool
) -> None:
    monkeypatch.setattr("torchrun_trainer.per_step.guards.DistributedDataParallel", nn.Linear)
    monkeypatch.setattr("torchrun_trainer.per_step.guards.average", lambda *_: None)
    model = nn.Linear(1, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)
    saved = scheduler.state_dict()
    before = model.weight.item()
    guard([model, optimizer, scheduler], Votes(commits=commits))  # type: ignore[arg-type]
    model(torch.ones(1, 1)).sum().backward()
    optimizer.step()
    scheduler.step()
    assert (model.weight.item() != before, scheduler.get_last_lr()) == (commits, [0.5 if commits else 1.0])
    assert scheduler.state_dict().keys() == saved.keys()
    with pytest.raises(LaunchError, match="without a closure"):
        optimizer.step(lambda: 0.0)


def test_a_scheduler_between_two_steps_belongs_to_the_one_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torchrun_trainer.per_step.guards.DistributedDataParallel", nn.Linear)
    monkeypatch.setattr("torchrun_trainer.per_step.guards.average", lambda *_: None)
    model = nn.Linear(1, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)
    optimizer.step()
    guard([model, optimizer, scheduler], Votes(commits=False, averaged=False))  # type: ignore[arg-type]
    scheduler.step()
    assert scheduler.get_last_lr() == [0.5]


@pytest.mark.parametrize(("commits", "scale"), [(True, 4.0), (False, 8.0)])
def test_a_step_that_does_not_count_leaves_the_scale_as_it_is(
    monkeypatch: pytest.MonkeyPatch, commits: bool, scale: float
) -> None:
    monkeypatch.setattr("torchrun_trainer.per_step.guards.DistributedDataParallel", nn.Linear)
    monkeypatch.setattr("torchrun_trainer.per_step.guards.average", lambda *_: None)
    model = nn.Linear(1, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    guard([model, optimizer, scaler], Votes(commits=commits))  # type: ignore[arg-type]
    scaler.scale(model(torch.full((1, 1), float("inf"))).sum()).backward()
    scaler.step(optimizer)
    scaler.update()
    assert scaler.get_scale() == scale


def test_the_members_of_all_groups() -> None:
    members = Members(Ranks())
    assert (members.rank, members.size, members.reached, members.leads) == (0, 1, 1, True)
    members.place(2, 4)
    assert (members.rank, members.size, members.reached, members.leads) == (2, 4, 1, False)


class Recorded(NoSaver):
    """A saver that records what it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[Any] = []

    def begin(self, *, take: bool = True) -> None:
        self.told.append(("begin", take))

    def step_done(self, step: int, *, due: bool, wait: bool) -> None:
        self.told.append((step, due, wait))

    def close(self) -> None:
        self.told.append("close")


def test_only_the_first_group_saves() -> None:
    recorded, members = Recorded(), Members(Ranks())
    saver = LeadSaver(recorded, members)
    saver.begin()
    members.place(1, 2)
    saver.step_done(1, due=True, wait=False)
    members.place(0, 1)
    saver.step_done(2, due=True, wait=False)
    saver.step_done(3, due=False, wait=False)
    members.place(1, 2)
    saver.step_done(4, due=True, wait=False)
    saver.close()
    assert recorded.told == [("begin", False), ("begin", True), (2, True, False), (3, False, False), "close"]


def test_a_lighthouse_that_is_away() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        assert unreachable(url) == ""
    assert unreachable(url).startswith(f"the lighthouse at {url} is out of reach: ")
    assert "out of reach" in unreachable("http://nowhere.invalid:29510")


def test_the_address_on_the_way() -> None:
    assert own_address("http://127.0.0.1:29510") == "127.0.0.1"
