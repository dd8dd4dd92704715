"""Stores of fsspec: S3, GCS, Azure, and for reading also HTTP and others."""

import contextlib
import os
from collections.abc import Container, Iterable, Iterator
from typing import Any

from torchrun_transfer.plan import Remote
from torchrun_transfer.stores.parts_at_s3 import PartsAtS3
from torchrun_transfer.troubles import TransferError

SMALL = 16 << 20
"""Files up to this size go in one request, which a store carries out wholly or not at all."""
_MOST_PARTS = 9_000
"""S3 takes 10,000 parts."""
_TAGS = ("ETag", "etag", "generation", "md5Hash", "mtime", "last_modified", "LastModified")
"""What implementations of fsspec call the version of a file, the most certain one first."""
_VERSION = "?versionId="
_SECONDS = 60
"""Timeout of a connection and of an answer."""
_OPTIONS: dict[str, dict[str, Any]] = {
    "s3": {"config_kwargs": {"connect_timeout": 10, "read_timeout": _SECONDS, "retries": {"max_attempts": 2}}},
}


class RemoteStore:
    """Files below a URL of fsspec."""

    def __init__(self, url: str) -> None:
        """Raises ImportError if a package for this URL is missing."""
        # Only these URLs need fsspec: images without it can still use directories.
        from fsspec.core import url_to_fs  # noqa: PLC0415

        self._scheme = url.partition("://")[0]
        options = {"use_listings_cache": False, "skip_instance_cache": True, **_OPTIONS.get(self._scheme, {})}
        self._fs, root = url_to_fs(url, **options)
        self._root = root.rstrip("/")
        self._single = False
        """The URL is that of one object."""

    def files(self) -> dict[str, Remote]:
        """See Store.files. A URL of one object has this object only."""
        try:
            found = self._fs.find(self._root, withdirs=False, detail=True)
        except FileNotFoundError:
            self._need_bucket()
            return {}
        if not found:
            self._need_bucket()
        self._single = [*found] == [self._root]
        return {self._relative(name): _remote(info) for name, info in found.items() if info.get("type") == "file"}

    def put(self, path: str, blocks: Iterable[bytes], size: int) -> Remote:
        """See Store.put."""
        full = self._full(path)
        if size <= SMALL:
            self._fs.pipe_file(full, b"".join(blocks))
        else:
            self._put_large(full, blocks, max(SMALL, -(-size // _MOST_PARTS)))
        sent = self._look(full)
        if sent.size != size:
            raise OSError(f"{full} has {sent.size} bytes after {size} were sent")
        return sent

    def _put_large(self, full: str, blocks: Iterable[bytes], part: int) -> None:
        if self._scheme == "s3":
            bucket, _, key = full.partition("/")
            PartsAtS3(self._fs, bucket, key).send(_joined(blocks, part))
            return
        file = self._fs.open(full, "wb", block_size=part, autocommit=False)
        try:
            for block in _joined(blocks, part):
                file.write(block)
            file.close()
            file.commit()
        except BaseException:
            with contextlib.suppress(Exception):
                file.discard()
            file.closed = True  # otherwise the finalizer would send what is left
            raise

    def get(self, path: str) -> bytes | None:
        """See Store.get."""
        try:
            content: bytes = self._fs.cat_file(self._full(path))
        except FileNotFoundError:
            return None
        return content

    def read(self, path: str, start: int, end: int) -> bytes:
        """See Store.read."""
        content: bytes = self._fs.cat_file(self._source(path), start=start, end=end)
        return content

    def look(self, path: str) -> Remote:
        """See Store.look."""
        return self._look(self._source(path))

    def _look(self, full: str) -> Remote:
        self._fs.invalidate_cache()
        return _remote(self._fs.info(full))

    def remove(self, path: str) -> None:
        """See Store.remove."""
        with contextlib.suppress(FileNotFoundError):
            self._fs.rm_file(self._full(path))

    def tidy(self, keep: Container[str] = ()) -> None:
        """See Store.tidy. Parts of an upload that was not completed take room at S3, although no list shows them."""
        if self._scheme != "s3":
            return
        bucket, _, prefix = self._root.partition("/")
        with contextlib.suppress(Exception):  # a right that an upload does not need
            found = self._fs.call_s3("list_multipart_uploads", Bucket=bucket, Prefix=f"{prefix}/" if prefix else "")
            for each in found.get("Uploads", ()):
                if self._relative(f"{bucket}/{each['Key']}") in keep:
                    continue
                self._fs.call_s3("abort_multipart_upload", Bucket=bucket, Key=each["Key"], UploadId=each["UploadId"])

    def _need_bucket(self) -> None:
        """Raise FileNotFoundError if even the bucket does not exist. A directory in it need not."""
        if self._scheme in ("s3", "gs", "gcs", "az", "abfs", "abfss"):
            self._fs.ls(self._root.partition("/")[0], refresh=True)

    def _full(self, path: str) -> str:
        if _VERSION in path:
            raise TransferError(f"{path}: fsspec takes {_VERSION} in a name for a version; rename or exclude the file")
        return f"{self._root}/{path}" if path else self._root

    def _source(self, path: str) -> str:
        return self._root if self._single else self._full(path)

    def _relative(self, name: str) -> str:
        name = str(name)
        return os.path.basename(name) if name == self._root else name[len(self._root) + 1 :]


def _remote(info: dict[str, Any]) -> Remote:
    tag = next((str(info[name]) for name in _TAGS if info.get(name)), "")
    return Remote(int(info.get("size") or 0), tag.strip('"'))


def _joined(blocks: Iterable[bytes], size: int) -> Iterator[bytes]:
    """Join blocks to pieces of at least this size."""
    piece = bytearray()
    for block in blocks:
        piece += block
        if len(piece) >= size:
            yield bytes(piece)
            piece.clear()
    if piece:
        yield bytes(piece)
