"""One connection to each job's rendezvous host: what the reconciler reads from and tells them."""

from typing import Protocol

from torchrun_operator.core.membership import Target
from torchrun_operator.core.observed import Rendezvous

Key = tuple[str, str]
"""Namespace and name of a job."""


class Links(Protocol):
    """What the reconciler needs of the rendezvous hosts. Nothing here waits for the network."""

    def ensure(self, key: Key, uid: str, address: str | None) -> None:
        """Be connected to the host at that address (of the job with that uid); None: be connected to none."""
        ...

    def state(self, key: Key) -> Rendezvous | None:
        """Return what the host last told, or None while it does not answer."""
        ...

    def tell(self, key: Key, target: Target) -> None:
        """Have the host told of this target, soon and again after it restarts."""
        ...

    def drop(self, key: Key) -> None:
        """Forget the job."""
        ...

    def token_digest(self, uid: str) -> str:
        """Return the hex SHA-256 of the token that the job's host must take."""
        ...
