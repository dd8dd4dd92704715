"""The kopf side: it watches jobs and passes on what it sees. Pods: see cluster.mirror."""

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import kopf

from torchrun_operator.api.names import GROUP, PLURAL, VERSION
from torchrun_operator.cluster.port import Key

Seen = Callable[[Key, Mapping[str, Any] | None], None]
"""Told of a job that was added or has changed, with its newest version; None: it was deleted."""


def registry(seen: Seen) -> kopf.OperatorRegistry:
    """Return handlers that pass on each event of a job.

    on.event alone: it never patches the object, adds no finalizer (a job stays deletable while the operator is away)
    and is never retried, which suits a handler that cannot fail.
    """
    handlers = kopf.OperatorRegistry()

    @kopf.on.login(registry=handlers, errors=kopf.ErrorsMode.PERMANENT)
    def login(**arguments: Any) -> kopf.ConnectionInfo | None:  # noqa: ANN401 - kopf's own
        return kopf.login_with_service_account(**arguments) or kopf.login_with_kubeconfig(**arguments)

    @kopf.on.event(GROUP, VERSION, PLURAL, registry=handlers)
    async def job_changed(*, namespace: str | None, name: str, event: kopf.RawEvent, **_: Any) -> None:  # noqa: ANN401
        seen((namespace or "", name), None if event["type"] == "DELETED" else event["object"])

    return handlers


def watch_settings() -> kopf.OperatorSettings:
    """Return kopf's settings for watching only."""
    settings = kopf.OperatorSettings()
    settings.posting.enabled = False
    settings.scanning.disabled = True
    settings.peering.standalone = True
    settings.networking.request_timeout = 30
    settings.watching.inactivity_timeout = 70
    settings.execution.max_workers = 1
    logging.getLogger("kopf.objects").setLevel(logging.WARNING)
    # It warns that it leaves the signals alone, which is what it runs in a thread for.
    logging.getLogger("kopf._core.reactor.running").setLevel(logging.ERROR)
    return settings


def watch(seen: Seen, namespaces: Sequence[str], stop: threading.Event, ready: threading.Event) -> None:
    """Watch until stopped; blocks, and is meant for a thread of its own. Raises whatever ended the watching."""
    try:
        kopf.run(
            registry=registry(seen),
            settings=watch_settings(),
            standalone=True,
            clusterwide=not namespaces,
            namespaces=namespaces,
            stop_flag=stop,
            ready_flag=ready,
        )
    finally:
        ready.set()
