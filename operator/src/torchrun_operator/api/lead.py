"""The pod of the lead of a static job, as the pods of the other nodes know it."""

from typing import NamedTuple


class LeadPod(NamedTuple):
    """The pod of node 0. The other nodes start with it, and end with it."""

    uid: str
    address: str
