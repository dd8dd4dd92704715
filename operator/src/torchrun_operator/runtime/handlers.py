"""The kopf side: it watches jobs and their pods, and does nothing but wake the queue."""

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import kopf

from torchrun_operator.api.names import GROUP, LABEL_JOB_NAME, PLURAL, VERSION
from torchrun_operator.runtime.links import Key


def registry(wake: Callable[[Key], None]) -> kopf.OperatorRegistry:
    """Return handlers that wake the job an event is about.

    on.event alone: it never patches the object, adds no finalizer (a job stays deletable while the operator is away)
    and is never retried, which suits a handler that cannot fail.
    """
    handlers = kopf.OperatorRegistry()

    @kopf.on.login(registry=handlers, errors=kopf.ErrorsMode.PERMANENT)
    def login(**arguments: Any) -> kopf.ConnectionInfo | None:  # noqa: ANN401 - kopf's own
        return kopf.login_with_service_account(**arguments) or kopf.login_with_kubeconfig(**arguments)

    @kopf.on.event(GROUP, VERSION, PLURAL, registry=handlers)
    async def job_changed(*, namespace: str | None, name: str, **_: Any) -> None:  # noqa: ANN401
        wake((namespace or "", name))

    @kopf.on.event("", "v1", "pods", labels={LABEL_JOB_NAME: kopf.PRESENT}, registry=handlers)
    async def pod_changed(*, namespace: str | None, labels: Mapping[str, str], **_: Any) -> None:  # noqa: ANN401
        wake((namespace or "", labels[LABEL_JOB_NAME]))

    return handlers


def watch_settings() -> kopf.OperatorSettings:
    """Return kopf's settings for watching only."""
    settings = kopf.OperatorSettings()
    settings.posting.enabled = False
    settings.scanning.disabled = True
    settings.peering.standalone = True
    settings.networking.request_timeout = 30
    settings.watching.inactivity_timeout = 70
    # Only our pods cross the wire; any other spelling of the key matches nothing without a word.
    settings.watching.label_selectors["pods"] = LABEL_JOB_NAME
    settings.execution.max_workers = 1
    logging.getLogger("kopf.objects").setLevel(logging.WARNING)
    return settings


def watch(
    wake: Callable[[Key], None], namespaces: Sequence[str], stop: threading.Event, ready: threading.Event
) -> None:
    """Watch until stopped; blocks, and is meant for a thread of its own. Raises whatever ended the watching."""
    try:
        kopf.run(
            registry=registry(wake),
            settings=watch_settings(),
            standalone=True,
            clusterwide=not namespaces,
            namespaces=namespaces,
            stop_flag=stop,
            ready_flag=ready,
        )
    finally:
        ready.set()
