"""Sharded: writes and reads tensors that are spread over ranks, with torch.distributed.checkpoint.

Each rank writes its own shards into a directory of the snapshot. Later any number of ranks each read the parts of their
own shards. The directory is an ordinary checkpoint of torch.distributed.checkpoint. Importing that takes long, so
import this module only where something is sharded.
"""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Iterator, Mapping
from io import IOBase
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemBase, FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer

from torchrun_trainer.snapshots.staging import SHARDED, is_sharded
from torchrun_trainer.snapshots.storage import Hashing, Storage

Files = dict[str, tuple[int, str]]
"""Size and checksum of each file."""


class MisfitError(ValueError):
    """A saved tensor does not fit the object that it is loaded into; the message says where."""


class _Files(FileSystemBase):
    """Lets torch.distributed.checkpoint write to and read from a storage, and computes checksums on the way."""

    def __init__(self, storage: Storage) -> None:
        self.written: Files = {}
        self._storage = storage

    @contextlib.contextmanager
    def create_stream(self, path: str | os.PathLike[str], mode: str) -> Iterator[IOBase]:
        with self._storage.open(str(path), mode) as raw:
            if mode == "rb":
                yield cast("IOBase", raw)
                return
            hashing = Hashing(raw)
            yield cast("IOBase", hashing)
        self.written[_basename(path)] = (hashing.size, hashing.checksum())

    def concat_path(self, path: str | os.PathLike[str], suffix: str) -> str:
        return f"{path}/{suffix}"

    def init_path(self, path: str | os.PathLike[str]) -> str:
        return str(path)

    def rename(self, path: str | os.PathLike[str], new_path: str | os.PathLike[str]) -> None:
        self._storage.rename(str(path), str(new_path))
        self.written[_basename(new_path)] = self.written.pop(_basename(path))

    def mkdir(self, path: str | os.PathLike[str]) -> None:
        self._storage.make_directory(str(path))

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: str | os.PathLike[str]) -> bool:
        return bool(checkpoint_id)

    def exists(self, path: str | os.PathLike[str]) -> bool:
        return self._storage.exists(str(path))

    def rm_file(self, path: str | os.PathLike[str]) -> None:
        self._storage.remove(str(path))


def _basename(path: str | os.PathLike[str]) -> str:
    return str(path).rpartition("/")[2]


@contextlib.contextmanager
def _readable_errors() -> Iterator[None]:
    """Raise an OSError whose one line says what went wrong on which ranks."""
    try:
        yield
    except CheckpointException as error:
        causes = (f"rank {rank}: {type(cause).__name__}: {cause}" for rank, (cause, _) in error.failures.items())
        raise OSError("; ".join(causes)) from error


class ShardWriter:
    """Writes the shards of this rank; its collectives use a process group of their own, to run beside training."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._group = cast("dist.ProcessGroup", dist.new_group(backend="gloo"))
        self._staged: dict[str, DTensor] = {}

    def stage(self, shards: Mapping[str, Tensor]) -> dict[str, Any]:
        """Copy the shards of this rank to the CPU, into the memory of the last copy."""
        before, self._staged = self._staged, {}
        with torch.no_grad():
            for name, shard in shards.items():
                self._staged[name] = _copy(cast("DTensor", shard), before.get(name))
        if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            torch.cuda.current_stream().synchronize()
        return dict(self._staged)

    def write(self, directory: str, staged: dict[str, Any]) -> Files:
        """Write staged shards, on all ranks at once, in any thread. Returns the files of all ranks on rank 0."""
        files = _Files(self._storage)
        writer = FileSystemWriter("", sync_files=self._storage.local, overwrite=False)
        writer.fs = cast("Any", files)
        with _readable_errors():
            save(staged, checkpoint_id=directory, storage_writer=writer, process_group=self._group)
        everybody: list[Files] | None = None
        if dist.get_rank() == 0:
            everybody = [{} for _ in range(dist.get_world_size())]
        dist.gather_object(files.written, everybody, dst=0, group=self._group)
        return {name: facts for files_of_one in everybody or () for name, facts in files_of_one.items()}


def _copy(shard: DTensor, buffer: DTensor | None) -> DTensor:
    """Copy this rank's part of a sharded tensor to the CPU, into ``buffer`` if it has the same shape and type."""
    local = shard.to_local()
    if buffer is None or buffer.to_local().shape != local.shape or buffer.dtype != shard.dtype:
        copy = cast("DTensor", shard.to(device="cpu", copy=True))
        if local.is_cuda:
            copy._local_tensor = copy._local_tensor.pin_memory()  # noqa: SLF001 (as PyTorch's own stager does)
        return copy
    buffer.to_local().copy_(local, non_blocking=local.is_cuda)
    return buffer


def damage(storage: Storage, directory: str, files: Mapping[str, Any], rank: int, world_size: int) -> str | None:
    """Return what is wrong with this rank's part of the files; None if nothing is."""
    for name, (size, checksum) in sorted(files.items())[rank::world_size]:
        try:
            if storage.checksum(f"{directory}/{name}") != (size, checksum):
                return f"the checksum of {directory}/{name} differs"
        except FileNotFoundError:
            return f"{directory}/{name} is missing"
    return None


class ShardReader:
    """Completes a saved state with tensors that are sharded, in the snapshot or in this process."""

    def __init__(self, storage: Storage, directory: str | None) -> None:
        self._reader = FileSystemReader("")
        self._reader.fs = cast("Any", _Files(storage))
        self._reader.path = directory or ""
        self._sizes: dict[str, Any] = {}
        if directory:
            self._sizes = self._reader.read_metadata().state_dict_metadata
        self._wanted: dict[str, Tensor] = {}

    def fill(self, name: str, saved: Any, live: Any, stateful: object) -> Any:  # noqa: ANN401
        """Return the saved state of ``stateful`` for ``load_state_dict``, with every tensor sharded as in this run.

        ``live`` is the current state, whose tensors are read into; an optimizer without a state yet follows its
        parameters. Call it on all ranks at once. Raises MisfitError if shapes differ or there is no tensor to read
        into.
        """
        self._wanted = {}
        parameters = _parameters(stateful) if isinstance(stateful, Optimizer) else []
        filled = self._walk(name, saved, live, parameters)
        if self._wanted:
            with warnings.catch_warnings(), _readable_errors():
                warnings.filterwarnings("ignore", "torch.distributed is disabled")  # a single process may read too
                load(self._wanted, storage_reader=self._reader)
        return filled

    def _walk(self, path: str, saved: Any, live: Any, parameters: list[Tensor]) -> Any:  # noqa: ANN401
        if isinstance(saved, dict) and SHARDED in saved:
            return self._target(path, saved[SHARDED], live, parameters)
        if isinstance(saved, Tensor):
            return self._spread(path, saved, live, parameters)
        if isinstance(saved, dict):
            below = live if isinstance(live, dict) else {}
            filled = type(saved)(
                (key, self._walk(f"{path}/{key}", item, below.get(key), parameters)) for key, item in saved.items()
            )
            if hasattr(saved, "_metadata"):
                filled._metadata = saved._metadata  # type: ignore[attr-defined]  # noqa: SLF001 (see Staging)
            return filled
        if isinstance(saved, list | tuple):
            others = live if isinstance(live, list | tuple) and len(live) == len(saved) else [None] * len(saved)
            return type(saved)(
                self._walk(f"{path}/{index}", item, other, parameters)
                for index, (item, other) in enumerate(zip(saved, others, strict=True))
            )
        return saved

    def _target(self, path: str, key: str, live: Any, parameters: list[Tensor]) -> Tensor:  # noqa: ANN401
        known = self._sizes.get(key)
        if not isinstance(known, TensorStorageMetadata):
            raise MisfitError(f"{path} is not among the shards of the snapshot")
        target = live if isinstance(live, Tensor) else _like(path, parameters, known)
        if target is None:
            raise MisfitError(f"{path} is sharded in the snapshot, and this run has no tensor there to shard it alike")
        if target.shape != known.size:
            raise MisfitError(f"{path} has the shape {list(known.size)}, but here {list(target.shape)}")
        self._wanted[key] = target.detach()
        return target

    def _spread(self, path: str, saved: Tensor, live: Any, parameters: list[Tensor]) -> Tensor:  # noqa: ANN401
        """Shard a whole tensor as this run has it."""
        like = live if isinstance(live, Tensor) else _parameter(path, parameters)
        if not is_sharded(like) or like.shape != saved.shape:
            return saved
        sharded = cast("DTensor", like)
        return distribute_tensor(saved.to(sharded.device), sharded.device_mesh, sharded.placements)


def _parameters(optimizer: Optimizer) -> list[Tensor]:
    """Return an optimizer's parameters in the order of their numbers in its ``state_dict``."""
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _parameter(path: str, parameters: list[Tensor]) -> Tensor | None:
    """Return the parameter that ``name/state/number/key`` belongs to."""
    parts = path.split("/")
    if len(parts) == 4 and parts[1] == "state" and parts[2].isdigit() and int(parts[2]) < len(parameters):
        return parameters[int(parts[2])]
    return None


def _like(path: str, parameters: list[Tensor], known: TensorStorageMetadata) -> Tensor | None:
    parameter = _parameter(path, parameters)
    return None if parameter is None else torch.empty_like(parameter.detach(), dtype=known.properties.dtype)
