"""Storage: a directory or a URL of fsspec for snapshots, where a file appears complete or not at all."""

from torchrun_trainer.snapshots.storage.base import Hashing, Sink, Storage, StorageError, checksum_of
from torchrun_trainer.snapshots.storage.locate import storage

__all__ = ["Hashing", "Sink", "Storage", "StorageError", "checksum_of", "storage"]
