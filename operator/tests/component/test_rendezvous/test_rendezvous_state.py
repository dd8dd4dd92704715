"""The host repairs states in the store that no agent writes."""

import base64
import os
import pickle
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from rendezvous_host import Host, running_host, wait_for


def _hostile() -> dict[str, Callable[[Any, str], object]]:
    """What a pod of the job can do to the state in the store, by name."""
    code = base64.b64encode(b"cos\nsystem\n(S'touch executed'\ntR.").decode()
    modern = base64.b64encode(pickle.dumps(Executes())).decode()
    return {
        "code to execute": lambda store, key: store.set(key, modern),
        "code of an old protocol": lambda store, key: store.set(key, code),
        "garbage": lambda store, key: store.set(key, "garbage"),
        "nothing": lambda store, key: store.set(key, ""),
        "8 MB": lambda store, key: store.set(key, "A" * 8_000_000),
        "another thing": lambda store, key: store.set(key, base64.b64encode(pickle.dumps({"round": 1})).decode()),
        "no state any more": lambda store, key: store.delete_key(key),
    }


class Executes:
    def __reduce__(self) -> tuple[object, ...]:
        return os.system, ("touch executed",)


@pytest.mark.torch
def test_it_restores_the_state_whatever_is_put_in_its_place(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torch.distributed import TCPStore  # type: ignore[attr-defined]
    from torch.distributed.elastic.rendezvous import dynamic_rendezvous as torchs

    monkeypatch.chdir(tmp_path)
    store = TCPStore("127.0.0.1", host.port, is_master=False, wait_for_workers=False, timeout=timedelta(seconds=10))
    key = f"torch.rendezvous.{host.rendezvous_id}"
    state, node = torchs._RendezvousState(), torchs._NodeDesc("10.0.0.1", 1, 0)
    state.round, state.participants, state.last_heartbeats = 7, {node: 0}, {node: datetime.now(UTC)}
    good = base64.b64encode(pickle.dumps(state))
    store.set(key, good.decode())
    wait_for(lambda: host.state()["waiting"] == ["10.0.0.1"], "the host has read the state")
    for number, (what, do) in enumerate(_hostile().items(), start=1):
        do(store, key)
        wait_for(lambda: store.check([key]) and store.get(key) == good, f"restored after {what}", 30)
        wait_for(lambda at_least=number: host.metrics()["restored_states_total"] >= at_least, "it is counted", 30)  # type: ignore[misc]
    assert len(host.events("state-restored")) == host.metrics()["restored_states_total"]
    assert (host.state()["round"], host.healthy()) == (7, True)
    assert [path.name for path in tmp_path.iterdir() if "executed" in path.name] == []


@pytest.mark.torch
def test_a_rendezvous_that_an_agent_closed_when_it_failed_is_open_again(host: Host) -> None:
    from torch.distributed import TCPStore  # type: ignore[attr-defined]
    from torch.distributed.elastic.rendezvous import dynamic_rendezvous as torchs

    host.want(2, 2)
    store = TCPStore("127.0.0.1", host.port, is_master=False, wait_for_workers=False, timeout=timedelta(seconds=10))
    state = torchs._RendezvousState()
    state.closed = True
    store.set(f"torch.rendezvous.{host.rendezvous_id}", base64.b64encode(pickle.dumps(state)).decode())
    wait_for(lambda: host.metrics()["reopened_total"] == 1, "the host opens it again", 30)
    assert host.state()["closed"] is False


@pytest.mark.torch
def test_a_state_that_takes_for_ever_to_read_ends_the_process(tmp_path: Path) -> None:
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    # A tuple with the previous tuple twice, sixty times. A set computes its hash, which takes years.
    tower = pickle.EMPTY_TUPLE + (pickle.DUP + pickle.TUPLE2) * 60
    bomb = pickle.PROTO + b"\x04" + pickle.EMPTY_SET + pickle.MARK + tower + pickle.ADDITEMS + pickle.STOP
    impatient = "from torchrun_rendezvous import __main__, driver\ndriver.FATAL_SECONDS = 2.0\n__main__.main()\n"
    with running_host(tmp_path, main=impatient) as host:
        store = TCPStore("127.0.0.1", host.port, is_master=False, wait_for_workers=False, timeout=timedelta(seconds=10))
        store.set(f"torch.rendezvous.{host.rendezvous_id}", base64.b64encode(bomb).decode())
        assert host.process.wait(60) == 1
        assert "in decode" in host.log_path.read_text()
