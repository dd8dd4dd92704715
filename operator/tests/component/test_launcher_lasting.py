"""Which of two states of torch a store keeps, when an agent that has outlived a store brings one to the next."""

import base64
import pickle
import socket
import threading

import pytest

from torchrun_launcher.lasting import NOTHING, ContradictionError, listens, restore

pytestmark = pytest.mark.torch


def state(number: int, *members: str, complete: bool = False) -> bytes:
    """Return a state as torch's agents write it."""
    from torch.distributed.elastic.rendezvous.dynamic_rendezvous import _NodeDesc, _RendezvousState

    made = _RendezvousState()
    made.round, made.complete = number, complete
    made.participants = {_NodeDesc(address, 1, 0): rank for rank, address in enumerate(members)}
    return base64.b64encode(pickle.dumps(made))


class Store:
    """torch's compare-and-set: a missing key counts as empty text."""

    def __init__(self, value: bytes | None) -> None:
        self.value = value

    def compare_set(self, _: str, expected: str, desired: str) -> bytes:
        if (self.value or b"") == expected.encode():
            self.value = desired.encode()
        return self.value or b""


TRAINS = state(3)
"""The state while round 2 trains."""


@pytest.mark.parametrize(
    ("there", "known", "kept"),
    [
        (None, TRAINS, TRAINS),
        (NOTHING, TRAINS, TRAINS),
        (None, NOTHING, None),
        (state(0, "a"), TRAINS, TRAINS),  # a new node has begun before
        (state(4), TRAINS, state(4)),  # the others have gone on
        (state(3, "a", "b", complete=True), state(3, "a"), state(3, "a", "b", complete=True)),
        (state(3, "a"), state(3, "a", "b", complete=True), state(3, "a", "b", complete=True)),
        (state(3, "a"), state(3, "a", "b"), state(3, "a")),  # a node that is missing there joins again
        (state(3, "a", complete=True), state(3, "a", "b", complete=True), state(3, "a", complete=True)),  # b has left
    ],
)
def test_the_newer_state_is_kept(there: bytes | None, known: bytes, kept: bytes | None) -> None:
    store = Store(there)
    restore(store, "key", known)  # type: ignore[arg-type]
    assert store.value == kept


def test_two_complete_states_of_one_round_contradict_each_other() -> None:
    with pytest.raises(ContradictionError, match="round 3 has other members"):
        restore(Store(state(3, "a", "c", complete=True)), "key", state(3, "a", "b", complete=True))  # type: ignore[arg-type]


def test_a_store_that_says_nothing_may_be_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert listens("127.0.0.1", port)
    assert not listens("127.0.0.1", port)


def test_a_proxy_that_closes_at_once_has_no_store() -> None:
    with socket.create_server(("127.0.0.1", 0)) as proxy:

        def close() -> None:
            proxy.accept()[0].close()

        closing = threading.Thread(target=close, daemon=True)
        closing.start()
        assert not listens("127.0.0.1", proxy.getsockname()[1])
        closing.join()
