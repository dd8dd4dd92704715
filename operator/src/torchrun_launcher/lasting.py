"""The agent's connection to the store of the rendezvous, which outlives the process that serves the store.

torchrun's agent ends as soon as it loses the store, and takes its workers with it, which need the store in no way once
they train. Here the agent goes on: it reads the last known state until a store listens again at the same address, and
brings it that state. This needs no change of torch: torch's backend opens its store by a name of its module, which
`install` replaces by a function that returns a store with these properties.

torch's rules hold: the state changes only by compare-and-set. Of two states, the one with the later round is newer; in
one round, the complete state is newer. A state that contradicts the known one ends the agent as before.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from datetime import timedelta
from functools import partial

from torch.distributed import Store  # type: ignore[attr-defined]
from torch.distributed.elastic.rendezvous import c10d_rendezvous_backend

from torchrun_launcher.log import log
from torchrun_launcher.places import ABSENT, NOTHING, state_of, with_places

TYPE_CHECKING = False  # the module typing is slow to import
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any, Protocol

    class Connection(Protocol):
        """torch's own store: its annotations lack half of this."""

        timeout: timedelta

        def get(self, key: str) -> bytes: ...
        def compare_set(self, key: str, expected: bytes | str, desired: bytes | str) -> bytes: ...
        def set(self, key: str, value: bytes | str) -> None: ...
        def add(self, key: str, amount: int) -> int: ...
        def wait(self, keys: Sequence[str], *timeout: timedelta) -> None: ...
        def check(self, keys: Sequence[str]) -> bool: ...
        def delete_key(self, key: str) -> bool: ...
        def num_keys(self) -> int: ...
        def multi_get(self, keys: Sequence[str]) -> list[bytes]: ...
        def multi_set(self, keys: Sequence[str], values: Sequence[str]) -> None: ...
        def append(self, key: str, value: bytes | str) -> None: ...
        def has_extended_api(self) -> bool: ...
        def set_timeout(self, timeout: timedelta) -> None: ...


PATIENCE_SECONDS = 3600.0
"""Then the agent ends. The workers lose nothing meanwhile, and an operator may be away for minutes."""
PAUSE_SECONDS = 0.25
CONNECT_SECONDS = 5.0
REACH_SECONDS = 1.0
LISTEN_SECONDS = 0.1
SILENT_MILLISECONDS = 4000
"""After this, the kernel ends a connection whose other end acknowledges nothing: its Kubernetes node is gone."""
LOST = (RuntimeError, ValueError, TimeoutError, OSError)
"""What torch's stores raise, which its backend takes for a lost connection."""


class ContradictionError(RuntimeError):
    """The store has another complete state of the same round: this agent belongs to a round that is no more."""


def install() -> None:
    """Let torchrun's agent in this process outlive its store. Says so in the log if this torch is unknown."""
    backend: Any = c10d_rendezvous_backend
    opened = getattr(backend, "TCPStore", None)
    if opened is None:
        log("this torch is unknown, so its agent ends if it loses the store of the rendezvous")
        return

    def connect(host: str, port: int, **options: object) -> Store:
        if options.get("is_master"):
            return opened(host, port, **options)  # type: ignore[no-any-return]
        return LastingStore(opened, host, port, options)

    backend.TCPStore = connect


class LastingStore(Store):
    """A store that passes all calls on to its present connection.

    Only the state of the rendezvous survives. All else that agents exchange there belongs to one moment: an agent that
    waits for it while the connection ends learns of that as before.
    """

    timeout: timedelta

    def __init__(self, opened: Callable[..., Connection], host: str, port: int, options: dict[str, Any]) -> None:
        """Connect to that address. ``options`` are those of torch's own store, which ``opened`` opens."""
        super().__init__()
        self._open = partial(opened, host, port, **options)
        self._address = host, port
        self._present = self._open()
        hasten(port)
        self.set_timeout(options["timeout"])
        self._key = ""
        self._known = NOTHING
        self._outage = Outage()

    def get(self, key: str) -> bytes:
        """Return a value. In an outage, the state of the rendezvous is the last known one."""
        if key != self._key:
            return self._plain().get(key)
        return self._state(lambda store: store.get(key), waits=False)

    def compare_set(self, key: str, expected: bytes | str, desired: bytes | str) -> bytes:
        """Change a value if it is the expected one. In an outage, the state of the rendezvous waits for a store."""
        if not self._key and desired in (NOTHING, NOTHING.decode()):
            self._key = key  # torch's backend begins with this
        if key != self._key:
            return self._plain().compare_set(key, expected, desired)
        wanted = with_places(_bytes(expected), _bytes(desired))
        return self._state(lambda store: store.compare_set(key, expected, wanted.decode()), waits=True)

    def set(self, key: str, value: bytes | str) -> None:
        self._plain().set(key, value)

    def add(self, key: str, amount: int) -> int:
        return self._plain().add(key, amount)

    def wait(self, keys: Sequence[str], *timeout: timedelta) -> None:
        self._plain().wait(keys, *timeout)

    def check(self, keys: Sequence[str]) -> bool:
        return self._plain().check(keys)

    def delete_key(self, key: str) -> bool:
        return self._plain().delete_key(key)

    def num_keys(self) -> int:
        return self._plain().num_keys()

    def multi_get(self, keys: Sequence[str]) -> list[bytes]:
        return self._plain().multi_get(keys)

    def multi_set(self, keys: Sequence[str], values: Sequence[str]) -> None:
        self._plain().multi_set(keys, values)

    def append(self, key: str, value: bytes | str) -> None:
        self._plain().append(key, value)

    def has_extended_api(self) -> bool:
        return self._plain().has_extended_api()

    def _plain(self) -> Connection:
        """Return the present connection with the time limit that callers have set for this store."""
        if self._present.timeout != self.timeout:
            self._present.set_timeout(self.timeout)
        return self._present

    def _state(self, call: Callable[[Connection], bytes], *, waits: bool) -> bytes:
        """Read or write the state: in an outage a reader gets the known state, and a writer waits."""
        answer = None
        try:
            answer = call(self._present) if not self._outage.lasts() else None
        except LOST as error:
            self._outage.begin(error)
        while answer is None:
            answer = self._reconnected(call)
            if answer is None:
                if not waits and self._known != NOTHING and not self._outage.over():
                    return self._known
                self._outage.pause(waits=waits)
        self._known = answer
        return answer

    def _reconnected(self, call: Callable[[Connection], bytes]) -> bytes | None:
        """Return the answer of a new connection; None if there is none yet."""
        if not self._outage.try_again() or not listens(*self._address):
            return None
        try:
            store = self._open(timeout=self._outage.limit)
            hasten(self._address[1])
            restore(store, self._key, self._known)
            answer = call(store)
        except ContradictionError as error:
            self._outage.give_up(error)
            return None
        except LOST:
            return None
        self._present = store
        self._outage.end()
        return answer


class Outage:
    """A time without a connection."""

    def __init__(self) -> None:
        self.limit = timedelta(seconds=CONNECT_SECONDS)
        """For a request to a store that has just come up."""
        self._began: float | None = None
        self._tried = 0.0
        self._error: Exception | None = None
        self._hopeless = False

    def lasts(self) -> bool:
        """Whether the connection is lost."""
        return self._began is not None

    def begin(self, error: Exception) -> None:
        """Note that the connection is lost, and why."""
        if self._hopeless:
            raise error
        if self._began is None:
            self._began, self._error = time.monotonic(), error
            log(f"the rendezvous is out of reach; the workers go on, for {PATIENCE_SECONDS:.0f} s at most: {error}")

    def end(self) -> None:
        """Note that the connection is there again."""
        if self._began is not None:
            log(f"the rendezvous is back after {time.monotonic() - self._began:.1f} s")
        self._began = self._error = None

    def over(self) -> bool:
        """Whether it has lasted too long."""
        return self._hopeless or (self._began is not None and time.monotonic() - self._began > PATIENCE_SECONDS)

    def try_again(self) -> bool:
        """Whether it is time for another attempt."""
        now = time.monotonic()
        due = not self._hopeless and now - self._tried >= PAUSE_SECONDS
        self._tried = now if due else self._tried
        return due

    def give_up(self, error: Exception) -> None:
        """Make no further attempt."""
        log(f"this node leaves its round: {error}")
        self._hopeless = True

    def pause(self, *, waits: bool) -> None:
        """Wait for the next attempt. Raises what ended the connection once that is of no use.

        Only the main thread waits. Heartbeats come from another one; torch skips those that fail.
        """
        error = self._error or RuntimeError("the connection to the store is lost")
        if self.over() or (waits and threading.current_thread() is not threading.main_thread()):
            raise error
        try:
            time.sleep(PAUSE_SECONDS)
        except BaseException:  # a signal: the agent ends, and must not wait again
            self._hopeless = True
            raise


def restore(store: Connection, key: str, known: bytes) -> None:
    """Bring the known state to a store that has an older one or none. Raises ContradictionError."""
    if known == NOTHING:
        return
    there = store.compare_set(key, "", known.decode())
    while there != known and is_newer(known, there):
        there = store.compare_set(key, there.decode(), known.decode())


def is_newer(one: bytes, other: bytes) -> bool:
    """Whether the first state is newer. Raises ContradictionError if both are complete states of one round."""
    mine, theirs = state_of(one), state_of(other)
    if theirs is None or mine is None:
        return mine is not None
    ages = (mine.round, mine.complete), (theirs.round, theirs.complete)
    others = {(node, rank) for node, rank in theirs.participants.items() if node.addr != ABSENT}
    if ages[0] == ages[1] and mine.complete and not others <= set(mine.participants.items()):
        raise ContradictionError(f"round {mine.round} has other members")
    return ages[0] > ages[1]


def _bytes(value: bytes | str) -> bytes:
    return value.encode() if isinstance(value, str) else value


def listens(host: str, port: int) -> bool:
    """Whether a store may be there: torch's own attempt would be long and loud.

    A store says nothing first. A proxy in front of a store that is gone accepts, and closes at once. An address that is
    no more, or not yet, does not answer at all.
    """
    try:
        one = socket.create_connection((host, port), timeout=REACH_SECONDS)
    except OSError:
        return False
    with one:
        one.settimeout(LISTEN_SECONDS)
        try:
            one.recv(1)
        except TimeoutError:
            return True
        except OSError:
            pass
    return False


def hasten(port: int) -> None:
    """Let the kernel notice soon that the other end of a connection to this port is gone without a word."""
    for name in os.listdir("/proc/self/fd"):
        try:
            if not os.readlink(f"/proc/self/fd/{name}").startswith("socket:"):
                continue
            with socket.socket(fileno=os.dup(int(name))) as one:
                if one.family in (socket.AF_INET, socket.AF_INET6) and one.getpeername()[1] == port:
                    one.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, SILENT_MILLISECONDS)
        except OSError:
            continue  # closed meanwhile, or no connection
