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

from torchrun_trainer.launch.ranks import Ranks
from torchrun_trainer.per_step.members import Members
from torchrun_trainer.per_step.settings import Settings
from torchrun_trainer.per_step.transport import imported, transport
from torchrun_trainer.snapshots.copier import Stateful

logger = logging.getLogger(__name__)

_TIMEOUT = timedelta(seconds=60)
"""For a collective, a vote and the state of a peer. A dead group is noticed long before, a silent one not."""
_QUORUM_TIMEOUT = timedelta(seconds=30)
"""For one attempt to form a quorum; there is no limit for all of them."""
_PAUSE_SECONDS = 0.2
_TOLD_SECONDS = 60.0


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
        self._told: float | None = None
        self._peers: _Peers | None = None

    def begin(self, step: int, wait: Callable[[], None]) -> int:
        """Form the quorum of the next step, with the state of the group that is ahead; return the steps done.

        Waits while there are too few groups, however long. All groups have the same state then.
        """
        self._committed = None
        if self._peers is None:  # only now: the others wait for a group that they have heard of
            self._peers = _Peers(self._settings, self.ranks.group, step, self._save, self._load)
        while not self._formed(self._peers):
            wait()
        done: int = self._peers.manager.current_step()
        return done

    def average(self, gradients: Tensor) -> None:
        """Replace a bucket of gradients by the mean over the groups; if that fails, the step will not be committed."""
        assert self._peers, "begin() comes first"
        self._peers.manager.allreduce(gradients).wait()
        if self._peers.manager.errored():
            self._peers.abort()

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
            peers.manager.shutdown(wait=False)

    def _formed(self, peers: _Peers) -> bool:
        problem: object = None
        try:
            peers.manager.start_quorum()
            problem = peers.manager.errored()
        except (RuntimeError, TimeoutError) as error:
            problem = error
        (failed,) = self.ranks.group.anywhere(problem is not None)
        if failed:
            peers.abort()
            self._tell(problem)
            return False
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

    def _save(self) -> dict[str, Any]:
        return {name: stateful.state_dict() for name, stateful in self._state.items()}

    def _load(self, state: Mapping[str, Any]) -> None:
        for name, stateful in self._state.items():
            stateful.load_state_dict(state[name])


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
            hostname=address,
            checkpoint_transport=transport(address, _TIMEOUT),
        )
        self.manager.load_state_dict({"step": step, "batches_committed": 0})

    def abort(self) -> None:
        """Close the connections to the other groups, so that those that wait for this one learn of it at once."""
        self._groups.abort()


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
