"""The wiring: what torchrun and the trainer library read from the environment of the trainer container.

docs/concepts/rendezvous.md explains each variable. torchrun takes every option from PET_<OPTION> too, so the user's
command stays `torchrun train.py` in any image.
"""

import re
from collections.abc import Iterator

from torchrun_operator.api import remedies
from torchrun_operator.api.names import PORT_HTTP, RESERVED_RDZV_CONF, rendezvous_name
from torchrun_operator.api.v1alpha1 import TorchrunJob, TorchrunJobSpec
from torchrun_operator.api.validation import Problem
from torchrun_operator.render.part import Part, Piece

NNODES_NOBODY_REACHES = 1_048_576
"""An agent that counts MAX members completes the round. Only the rendezvous host may do that."""
RESTARTS_WITHOUT_END = 1_000_000
"""The operator counts restarts by cause. An agent would count the loss of another node as its own failure."""

_RDZV_CONF = {
    "is_host": "0",
    "join_timeout": "86400",
    "last_call_timeout": "86400",
    "keep_alive_interval": "2",
    "keep_alive_max_attempt": "43200",
    "read_timeout": "60",
}


def _node(job: TorchrunJob, index: int) -> Piece:
    """POD_IP comes first because other variables refer to it."""
    return Piece(
        env=(
            {"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
            {"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
            *({"name": name, "value": value} for name, value in _plain(job, index).items()),
        )
    )


def _plain(job: TorchrunJob, index: int) -> dict[str, str]:
    return {
        **({} if job.spec.static else _of_rendezvous(job)),
        "TORCHELASTIC_ERROR_FILE": "/dev/termination-log",
        "TORCHRUN_JOB_NAME": job.metadata.name,
        "TORCHRUN_JOB_NAMESPACE": job.metadata.namespace,
        "TORCHRUN_NODE_INDEX": str(index),
        **({} if job.spec.static else {"TORCHRUN_PROGRESS_URL": _progress_url(job)}),
    }


def _progress_url(job: TorchrunJob) -> str:
    return f"http://{rendezvous_name(job.metadata.name)}:{PORT_HTTP}/v1/progress"


def _of_rendezvous(job: TorchrunJob) -> dict[str, str]:
    """Return what leads the agents to the rendezvous host."""
    spec, name = job.spec, job.metadata.name
    host = rendezvous_name(name)
    conf = {**_RDZV_CONF, **{key: str(value) for key, value in sorted(spec.rendezvous.conf.items())}}
    return {
        "PET_NNODES": f"{spec.min_nodes}:{NNODES_NOBODY_REACHES}",
        "PET_NPROC_PER_NODE": str(spec.nproc_per_node),
        "PET_MAX_RESTARTS": str(RESTARTS_WITHOUT_END),
        "PET_RDZV_ID": job.metadata.uid,
        "PET_RDZV_BACKEND": spec.rendezvous.backend,
        "PET_RDZV_ENDPOINT": f"{host}:{spec.rendezvous.port}",
        "PET_RDZV_CONF": ",".join(f"{key}={value}" for key, value in conf.items()),
        "PET_LOCAL_ADDR": "$(POD_IP)",
        "PET_MONITOR_INTERVAL": "0.1",
        "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
        **({"TORCH_ELASTIC_WORKER_IDENTICAL": "1"} if _identical(spec) else {}),
    }


def _identical(spec: TorchrunJobSpec) -> bool:
    """Whether all nodes certainly run the same number of workers. Kubernetes nodes differ in their GPUs and CPUs."""
    chosen_in_shell = any("--nproc" in word for index in range(2) for word in spec.command_of(index))
    return isinstance(spec.nproc_per_node, int) and not chosen_in_shell


def _problems(spec: TorchrunJobSpec) -> Iterator[Problem]:
    if spec.rendezvous.port == PORT_HTTP:
        yield Problem("spec.rendezvous.port", remedies.CONTROL_PORT)
    for key, value in spec.rendezvous.conf.items():
        if key in RESERVED_RDZV_CONF:
            yield Problem("spec.rendezvous.conf", f"remove {key}: the operator sets it")
        elif not re.fullmatch("[a-z][a-z0-9_]*", key) or "," in value or "=" in value:
            yield Problem("spec.rendezvous.conf", remedies.RDZV_CONF)


PART = Part(node=_node, problems=_problems)
