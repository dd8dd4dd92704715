"""Finds the store of a URL."""

from torchrun_transfer.stores.base import Store
from torchrun_transfer.stores.directory import Directory
from torchrun_transfer.stores.remote import RemoteStore
from torchrun_transfer.troubles import TransferError


def store_of(url: str) -> Store:
    """Return the store. Raises TransferError for an unknown scheme, ImportError if a package is missing."""
    scheme, separator, rest = url.partition("://")
    if scheme == "file" and separator:
        return Directory(f"/{rest.strip('/')}")
    try:
        return RemoteStore(url)
    except ValueError as error:
        raise TransferError(f"{url}: {error}; see spec.outputs and spec.inputs for the known schemes") from error
