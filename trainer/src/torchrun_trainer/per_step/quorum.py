"""Quorum: the replica groups that take a step together, and whether the step counts."""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit

import torch.distributed as dist
from torch import Tensor
from torch.distributed import TCPStore  # type: ignore[attr-defined]

from torchrun_trainer.launch.checks import LaunchError
from torchrun_trainer.launch.fault_tolerance import Settings
from torchrun_trainer.launch.ranks import Ranks
from torchrun_trainer.per_step.members import Members
from torchrun_trainer.per_step.transport import imported, transport
from torchrun_trainer.snapshots.copier import Stateful

logger = logging.getLogger(__name__)

_TIMEOUT = timedelta(seconds=60)
"""For a collective, a vote and the state of a peer. A dead group is noticed long before, a silent one not."""
_QUORUM_TIMEOUT = timedelta(seconds=1.5)
"""For one attempt to form a quorum; there is no limit for all. Shorter than the patience after a SIGTERM."""
_PAUSE_SECONDS = 0.2
_REACH_SECONDS = 1.0
_TOLD_SECONDS = 60.0


class MisfitError(Exception):
    """The state of a peer does not fit the objects of this run."""


class Quorum:
    """The own replica group's part in each step: ``begin``, ``average`` each bucket of gradients, ``committed``.

    Call everything on all ranks of the group.

    Args:
        settings: how to find the others.
        members: the workers of all groups; they change with each quorum.
        state: what a newcomer takes from a peer, by name.

    Raises:
        LaunchError: torchft is not installed.

    """

    joins_late = True

    def __init__(
        self,
        settings: Settings,
        members: Members,
        state: Mapping[str, Stateful],
    ) -> None:
        imported()
        self.ranks = members
        self._settings = settings
        self._state = dict(state)
        self._committed: bool | None = True
        self._averaged = False
        self._healed = False
        self._told: float | None = None
        self._peers: _Peers | None = None

    def begin(self, step: int, wait: Callable[[], None]) -> int:
        """Form the quorum of the next step, with the state of the group that is ahead; return the steps done.

        Waits while there are too few groups, however long. All groups have the same state then.
        """
        self._committed, self._averaged = None, False
        while True:
            if self._peers is None:  # only now: the others wait for a group that they have heard of
                self._peers = self._opened(step)
            if self._peers and self._formed(self._peers):
                done: int = self._peers.manager.current_step()
                return done
            wait()

    def average(self, gradients: Tensor) -> None:
        """Replace a bucket of gradients by the mean over the groups; if that fails, the step will not be committed."""
        assert self._peers, "begin() comes first"
        if self._committed is not None:
            raise LaunchError("recovery step by step needs all backward passes of a step before optimizer.step()")
        self._averaged = True
        self._peers.manager.allreduce(gradients).wait()
        if self._peers.manager.errored():
            self._peers.abort()

    @property
    def averaged(self) -> bool:
        """Whether the present step has gradients. Otherwise what is done belongs to the one before, which counts."""
        return self._averaged

    def committed(self) -> bool:
        """Vote, once in each step, and return whether it counts."""
        if self._committed is None:
            assert self._peers, "begin() comes first"
            self._committed = bool(self._peers.manager.should_commit())
        return self._committed

    def close(self) -> None:
        """Leave: the others go on without this group."""
        peers, self._peers = self._peers, None
        if peers:
            peers.close()

    def _opened(self, step: int) -> _Peers | None:
        """Return a new manager; None while the lighthouse is away, which its constructor takes for an error."""
        problem = self.ranks.group.on_rank_0(lambda: unreachable(self._settings.lighthouse))
        if problem:
            self._tell(problem)
            time.sleep(_PAUSE_SECONDS)
            return None
        return _Peers(self._settings, self.ranks.group, step, self._save, self._load)

    def _formed(self, peers: _Peers) -> bool:
        problem, lost, self._healed = None, False, False
        try:
            peers.manager.start_quorum()
            problem = peers.manager.errored()
        except (RuntimeError, TimeoutError) as error:
            problem, lost = error, peers.lighthouse_is_lost()
        failed, lost, healed = self.ranks.group.anywhere(problem is not None, lost, self._healed)
        if failed:
            if healed and self.ranks.group.size > 1:
                raise MisfitError(f"only some workers of this node have the state of a peer: {problem}")
            peers.abort()
            self._tell(problem)
            if lost:  # of a lighthouse that was started again, the manager learns nothing
                self.close()
            return False
        if healed:
            self._share(peers)
        place, groups = peers.manager.participating_rank(), peers.manager.num_participants()
        assert place is not None, "a synchronous quorum has a place for each group"
        if groups < self._settings.least:
            self._tell(f"there are {groups}")
            time.sleep(_PAUSE_SECONDS)
            return False
        self.ranks.place(place, groups)
        return True

    def _tell(self, problem: object) -> None:
        """Say once a minute that no step can begin."""
        if self._told is None or time.monotonic() - self._told > _TOLD_SECONDS:
            self._told = time.monotonic()
            least = self._settings.least
            logger.warning("no quorum of at least %d replica groups yet: %s", least, str(problem)[:300])

    def _share(self, peers: _Peers) -> None:
        """Give all workers of the group the state of the first: each may have taken that of another peer."""
        state, done = self.ranks.group.on_rank_0(lambda: (self._save(), peers.manager.current_step()))
        if self.ranks.group.rank:
            self._load(state)
            peers.manager.load_state_dict({"step": done, "batches_committed": 0})

    def _save(self) -> dict[str, Any]:
        return {name: stateful.state_dict() for name, stateful in self._state.items()}

    def _load(self, state: Mapping[str, Any]) -> None:
        self._healed = True
        for name, stateful in self._state.items():
            try:
                stateful.load_state_dict(state[name])
            except Exception as error:
                raise MisfitError(f"the state of a peer does not fit {name!r}: {error}") from error


class _Peers:
    """torchft's manager of this group, and the process group of all groups."""

    def __init__(
        self,
        settings: Settings,
        group: Ranks,
        step: int,
        save: Callable[[], dict[str, Any]],
        load: Callable[[Mapping[str, Any]], None],
    ) -> None:
        torchft = imported()
        self._probe = socket.create_connection(_place(settings.lighthouse), _REACH_SECONDS)
        self._probe.setblocking(False)
        address = own_address(settings.lighthouse)
        self._store, (host, port) = _open_store(group, address)
        cuda = dist.is_initialized() and "nccl" in dist.get_backend_config()
        self._groups = (torchft.ProcessGroupNCCL if cuda else torchft.ProcessGroupGloo)(timeout=_TIMEOUT)
        self.manager = torchft.Manager(
            pg=self._groups,
            load_state_dict=load,
            state_dict=save,
            min_replica_size=settings.least,
            use_async_quorum=False,  # each group must know its share of the batch before the step
            timeout=_TIMEOUT,
            quorum_timeout=_QUORUM_TIMEOUT,
            rank=group.rank,
            world_size=group.size,
            store_addr=host,
            store_port=port,
            lighthouse_addr=settings.lighthouse,
            replica_id=settings.group,
            hostname=f"[{address}]" if ":" in address else address,
            checkpoint_transport=transport(address, _TIMEOUT),
        )
        self.manager.load_state_dict({"step": step, "batches_committed": 0})

    def lighthouse_is_lost(self) -> bool:
        """Whether the lighthouse that this manager knows has ended."""
        try:
            return self._probe.recv(1, socket.MSG_PEEK) == b""
        except BlockingIOError:
            return False
        except OSError:
            return True

    def close(self) -> None:
        """Leave the quorum."""
        self.manager.shutdown(wait=False)
        self._probe.close()

    def abort(self) -> None:
        """Close the connections to the other groups, so that those that wait for this one learn of it at once."""
        self._groups.abort()


def _place(url: str) -> tuple[str, int]:
    parts = urlsplit(url)
    return parts.hostname or "", parts.port or 0


def unreachable(url: str) -> str:
    """Return why nothing listens at a URL; an empty text if something does."""
    try:
        socket.create_connection(_place(url), _REACH_SECONDS).close()
    except OSError as error:
        return f"the lighthouse at {url} is out of reach: {error}"
    return ""


def own_address(url: str) -> str:
    """Return the address of this host on the way to a URL, which other pods can reach; it sends nothing."""
    parts = urlsplit(url)
    places = socket.getaddrinfo(parts.hostname, parts.port, type=socket.SOCK_DGRAM)
    family, kind, protocol, _, place = places[0]
    with socket.socket(family, kind, protocol) as probe:
        probe.connect(place)
        address: str = probe.getsockname()[0]
    return address


def _open_store(group: Ranks, address: str) -> tuple[TCPStore, tuple[str, int]]:
    """Open a store at which the groups of a quorum meet, on rank 0; return it and its address on all ranks."""
    stores: list[TCPStore] = []

    def serve() -> tuple[str, int]:
        stores.append(TCPStore(address, 0, is_master=True, wait_for_workers=False))
        return address, stores[0].port

    host, port = group.on_rank_0(serve)
    return (stores[0] if stores else TCPStore(host, port, wait_for_workers=False)), (host, port)
