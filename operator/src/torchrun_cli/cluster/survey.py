"""Reads many lists at once. One that must not be read is no error: it says so."""

from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Final, NamedTuple

from torchrun_cli.cluster.answers import ApiError
from torchrun_cli.cluster.client import Client, Object
from torchrun_cli.cluster.resources import Resource

_AT_ONCE: Final = 8


class Query(NamedTuple):
    """A list to read. No namespace: of all namespaces."""

    resource: Resource
    namespace: str | None = None
    labels: str = ""
    fields: str = ""
    names_only: bool = False
    """Whether the metadata is enough, so that no Secret leaves the cluster."""


def read_lists(client: Client, queries: Mapping[str, Query]) -> dict[str, tuple[Object, ...] | str]:
    """Return each list, or why it could not be read. Raises UnreachableError if the API server is gone."""
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return dict(zip(queries, pool.map(lambda query: _read(client, query), queries.values()), strict=True))


def _read(client: Client, query: Query) -> tuple[Object, ...] | str:
    about = query.resource.plural + (f" in the namespace {query.namespace}" if query.namespace else "")
    try:
        found, _ = client.list(
            query.resource, query.namespace, labels=query.labels, fields=query.fields, names_only=query.names_only
        )
    except ApiError as error:
        return refusal(error, about)
    return tuple(found)


def refusal(error: ApiError, about: str) -> str:
    """Return why something could not be read, for people."""
    if error.status == 403:
        return f"not allowed to read {about}"
    return f"cannot read {about} ({error.message})"


def server_time(client: Client) -> datetime | None:
    """Return the time of the API server, in whole seconds. None: it does not say."""
    _, date = client.fetch("/version")
    try:
        return parsedate_to_datetime(date) if date else None
    except ValueError:
        return None


def readiness(client: Client, pods: Iterable[Object], port: int) -> list[Object] | str:
    """Return what each pod answers to /readyz, through the API server, or why it could not be read."""
    found: list[Object] = []
    for pod in pods:
        metadata = pod["metadata"]
        path = f"/api/v1/namespaces/{metadata['namespace']}/pods/{metadata['name']}:{port}/proxy/readyz"
        try:
            text, _ = client.fetch(path)
        except ApiError as error:
            if error.status != 503 or error.reason:
                return refusal(error, "/readyz of the operator through the API server")
            text = error.message
        found.append({"name": metadata["name"], "text": text})
    return found
