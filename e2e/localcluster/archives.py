"""Image archives with only the layers that the other side lacks.

A change of the sources touches a few hundred KB of a trainer image of more than 4 GB. containerd accepts an image
without those first layers that it has already unpacked.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import tarfile
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

_BUFFER = 1 << 20
_LAYER = re.compile(r"([0-9a-f]{64})\.tar")
_CONFIG = re.compile(r"([0-9a-f]{64})\.json")
_OCI = "application/vnd.oci.image"


def chain_ids(diff_ids: Sequence[str]) -> list[str]:
    """Names that containerd gives to the unpacked layers of an image: each together with all layers below it."""
    chain: list[str] = []
    for diff_id in diff_ids:
        below = f"{chain[-1]} {diff_id}" if chain else ""
        chain.append(f"sha256:{hashlib.sha256(below.encode()).hexdigest()}" if below else diff_id)
    return chain


def lacking(diff_ids: Sequence[str], unpacked: Collection[str]) -> set[str]:
    """Layers that are missing where these chains are unpacked."""
    known = 0
    while known < len(diff_ids) and chain_ids(diff_ids)[known] in unpacked:
        known += 1
    return set(diff_ids[known:])


def repack(docker_archive: IO[bytes], reference: str, wanted: Collection[str], target: Path) -> None:
    """Convert a stream in docker's format with one image into an OCI archive with only the wanted layers."""
    sizes: dict[str, int] = {}
    config = b""
    with (
        tarfile.open(fileobj=docker_archive, mode="r|", bufsize=_BUFFER) as source,
        tarfile.open(target, mode="w|", bufsize=_BUFFER, format=tarfile.PAX_FORMAT) as archive,
    ):
        for member in source:
            layer, configuration = _LAYER.fullmatch(member.name), _CONFIG.fullmatch(member.name)
            content = source.extractfile(member) if member.isreg() else None
            if layer and content:
                digest = f"sha256:{layer[1]}"
                sizes[digest] = member.size
                if digest in wanted:
                    archive.addfile(_member(_blob(digest), member.size), content)
            elif configuration and content:
                config = content.read()
        _describe(archive, config, sizes, reference)


def describe(config: bytes, sizes: Mapping[str, int], reference: str, target: Path) -> None:
    """Write an OCI archive with no layer of an image, whose layers have these sizes by digest."""
    with tarfile.open(target, mode="w", format=tarfile.PAX_FORMAT) as archive:
        _describe(archive, config, sizes, reference)


def _describe(archive: tarfile.TarFile, config: bytes, sizes: Mapping[str, int], reference: str) -> None:
    manifest = _manifest(config, sizes)
    for name, data in {
        "oci-layout": b'{"imageLayoutVersion":"1.0.0"}',
        _blob(_digest(config)): config,
        _blob(_digest(manifest)): manifest,
        "index.json": _index(manifest, reference),
    }.items():
        archive.addfile(_member(name, len(data)), io.BytesIO(data))


def _manifest(config: bytes, sizes: Mapping[str, int]) -> bytes:
    layers = [
        {"mediaType": f"{_OCI}.layer.v1.tar", "digest": digest, "size": sizes[digest]}
        for digest in json.loads(config)["rootfs"]["diff_ids"]
    ]
    described = {"mediaType": f"{_OCI}.config.v1+json", "digest": _digest(config), "size": len(config)}
    return _json({"schemaVersion": 2, "mediaType": f"{_OCI}.manifest.v1+json", "config": described, "layers": layers})


def _index(manifest: bytes, reference: str) -> bytes:
    described = {
        "mediaType": f"{_OCI}.manifest.v1+json",
        "digest": _digest(manifest),
        "size": len(manifest),
        "annotations": {"io.containerd.image.name": reference},
    }
    return _json({"schemaVersion": 2, "mediaType": f"{_OCI}.index.v1+json", "manifests": [described]})


def _json(value: dict[str, Any]) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def _blob(digest: str) -> str:
    return digest.replace("sha256:", "blobs/sha256/")


def _member(name: str, size: int) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.size = size
    return member
