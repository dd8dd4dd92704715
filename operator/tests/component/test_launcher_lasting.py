"""Which of two states of torch a store keeps, when an agent that has outlived a store brings one to the next."""

import base64
import contextlib
import pickle
import socket
import threading

import pytest

from torchrun_launcher.lasting import ContradictionError, listens, restore
from torchrun_launcher.places import NOTHING, with_places
from torchrun_rendezvous.view import Node, absent

pytestmark = pytest.mark.torch


def state(number: int, *members: str, complete: bool = False, gone: tuple[int, ...] = ()) -> bytes:
    """Return a state as torch's agents write it. The members of these ranks have left, and their places are kept."""
    from torch.distributed.elastic.rendezvous.dynamic_rendezvous import _NodeDesc, _RendezvousState

    made = _RendezvousState()
    made.round, made.complete = number, complete
    made.participants = {_NodeDesc(address, 1, 0): rank for rank, address in enumerate(members) if rank not in gone}
    made.participants.update({_NodeDesc(*absent(rank)): rank for rank in gone})
    return base64.b64encode(pickle.dumps(made))


def members(value: bytes) -> dict[Node, int]:
    return {
        Node(n.addr, n.pid, n.local_id): rank for n, rank in pickle.loads(base64.b64decode(value)).participants.items()
    }


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
KEPT = state(3, "a", "b", complete=True, gone=(1,))


@pytest.mark.parametrize(
    ("before", "after", "written"),
    [
        (state(3, "a", "b", "c", complete=True), state(3, "a", "b", complete=True), {0: "a", 1: "b", 2: ""}),
        (state(3, "a", "b", complete=True), state(3, complete=True), {0: "", 1: ""}),
        (KEPT, state(3, "a", complete=True), {0: "a", 1: ""}),
        # Nobody has left.
        (state(3, "a", "b"), state(3, "a", "b", complete=True), {0: "a", 1: "b"}),
        (state(3, "a", "b", complete=True), state(3, "a", "b", complete=True), {0: "a", 1: "b"}),
        (state(3, "a", "b"), state(3, "a"), {0: "a"}),
        (state(3, "a", "b", complete=True), state(4), {}),
        (state(3, "a", "b", complete=True), state(4, "a", complete=True), {0: "a"}),
        (NOTHING, state(0, "a"), {0: "a"}),
        (b"", state(0, "a", complete=True), {0: "a"}),
    ],
)
def test_the_place_of_a_member_that_leaves_is_kept(before: bytes, after: bytes, written: dict[int, str]) -> None:
    expected = {Node(name, 1, 0) if name else absent(rank): rank for rank, name in written.items()}
    assert members(with_places(before, after)) == expected
    assert with_places(before, NOTHING) == NOTHING


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
        (KEPT, state(3, "a", "b", complete=True), KEPT),
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


def test_an_address_that_does_not_answer_has_no_store() -> None:
    # As the address of a pod that is gone: the kernel drops what comes to a socket that takes nobody any more.
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        address = server.getsockname()
        queued = []
        for _ in range(3):
            one = stack.enter_context(socket.socket())
            one.setblocking(False)
            queued.append(one.connect_ex(address))
        assert not listens(*address)
