"""The wiring: what torchrun, NCCL and the trainer library read from the environment of a node's trainer container.

docs/concepts/rendezvous.md says why each is set. torchrun takes every option from PET_<OPTION> as well, so the user's
command stays `torchrun train.py` in any image.
"""

from typing import Any

from torchrun_operator.api.names import PORT_HTTP, WORKER_PYTHON, rendezvous_name
from torchrun_operator.api.v1alpha1 import TorchrunJob

PROGRAM_DIRECTORY = "/torchrun-operator"
"""Where pods find the operator's programs."""
WARM_PYTHON = f"{PROGRAM_DIRECTORY}/python"
"""What torchrun starts instead of Python in the nodes of a job that starts warm."""
NNODES_NOBODY_REACHES = 1_048_576
"""An agent that counts MAX members completes the round by itself; only the rendezvous host may do that."""
RESTARTS_WITHOUT_END = 1_000_000
"""Restarts are counted by the operator, by cause: an agent would count a peer's death as its own failure."""

_RDZV_CONF = {
    "is_host": "0",
    "join_timeout": "86400",
    "last_call_timeout": "86400",
    "keep_alive_interval": "2",
    "keep_alive_max_attempt": "43200",
    "read_timeout": "60",
}


def trainer_env(job: TorchrunJob, index: int) -> list[dict[str, Any]]:
    """Return the EnvVars of node `index`; POD_IP comes first because others refer to it."""
    return [
        {"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
        {"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
        *({"name": name, "value": value} for name, value in _plain(job, index).items()),
        *_faulthandler(job),
        *({"name": name, "value": value} for name, value in sorted(job.spec.nccl.env.items())),
    ]


def _faulthandler(job: TorchrunJob) -> list[dict[str, Any]]:
    """A worker that crashes in native code says where, unless the user has decided about that."""
    given = {variable.get("name") for variable in job.spec.trainer.get("env") or ()}
    return [] if "PYTHONFAULTHANDLER" in given else [{"name": "PYTHONFAULTHANDLER", "value": "1"}]


def _plain(job: TorchrunJob, index: int) -> dict[str, str]:
    spec, name = job.spec, job.metadata.name
    host = rendezvous_name(name)
    conf = {**_RDZV_CONF, **{key: str(value) for key, value in sorted(spec.rendezvous.conf.items())}}
    env = {
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
        "TORCH_ELASTIC_WORKER_IDENTICAL": "1",
        "TORCHELASTIC_ERROR_FILE": "/dev/termination-log",
        "TORCHRUN_JOB_NAME": name,
        "TORCHRUN_JOB_NAMESPACE": job.metadata.namespace,
        "TORCHRUN_NODE_INDEX": str(index),
        "TORCHRUN_PROGRESS_URL": f"http://{host}:{PORT_HTTP}/v1/progress",
    }
    if spec.elasticity.warm_start:
        env[WORKER_PYTHON] = WARM_PYTHON
        if spec.elasticity.preload:
            env["TORCHRUN_PRELOAD"] = ",".join(spec.elasticity.preload)
    if spec.snapshots is not None:
        env["TORCHRUN_SNAPSHOT_PATH"] = spec.snapshots.mount_path
    return env
