"""The static backend: fixed ranks, the address of the lead, and the names of all nodes.

The nodes other than the lead are created once the lead has an address. They have it in an annotation, and in their
/etc/hosts under the name of the lead: a DNS server may return the address of a former pod for some seconds.
"""

from collections.abc import Iterator
from typing import Final

from torchrun_operator.api import remedies
from torchrun_operator.api.names import (
    ANNOTATION_LEAD_ADDRESS,
    STATIC_ENV,
    hosts_name,
    node_host,
    node_name,
)
from torchrun_operator.api.v1alpha1 import TorchrunJob, TorchrunJobSpec
from torchrun_operator.api.validation import Problem
from torchrun_operator.render.metadata import owned_metadata
from torchrun_operator.render.part import Installation, Manifest, Part, Piece

_VOLUME: Final = "torchrun-hosts"
_DIRECTORY: Final = "/etc/torchrun"
_HOSTFILE: Final = "hostfile"
_HOSTS: Final = "hosts"


def _config_map(job: TorchrunJob, _: Installation) -> Iterator[Manifest]:
    """Return the names of all nodes, as Open MPI and DeepSpeed read them, and as a list."""
    if job.spec.static:
        hosts = [node_host(job.metadata.name, index) for index in range(job.spec.max_nodes)]
        yield {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": owned_metadata(job, hosts_name(job.metadata.name)),
            "data": {
                _HOSTFILE: "".join(f"{host} slots={job.spec.nproc_per_node}\n" for host in hosts),
                _HOSTS: ",".join(hosts),
            },
        }


def _node(job: TorchrunJob, index: int) -> Piece:
    if not job.spec.static:
        return Piece()
    hosts = hosts_name(job.metadata.name)
    lead = "$(POD_IP)" if index == 0 else None
    field = {"fieldRef": {"fieldPath": f"metadata.annotations['{ANNOTATION_LEAD_ADDRESS}']"}}
    return Piece(
        env=(
            {"name": "LEAD_IP", **({"value": lead} if lead else {"valueFrom": field})},
            {"name": "NODE_HOSTS", "valueFrom": {"configMapKeyRef": {"name": hosts, "key": _HOSTS}}},
            *({"name": name, "value": value} for name, value in _plain(job, index).items()),
        ),
        volumes=({"name": _VOLUME, "configMap": {"name": hosts, "items": [{"key": _HOSTFILE, "path": _HOSTFILE}]}},),
        mounts=({"name": _VOLUME, "mountPath": _DIRECTORY, "readOnly": True},),
    )


def _plain(job: TorchrunJob, index: int) -> dict[str, str]:
    nodes, processes = job.spec.max_nodes, int(job.spec.nproc_per_node)
    lead, port = node_name(job.metadata.name, 0), str(job.spec.rendezvous.port)
    conf = ",".join(f"{key}={value}" for key, value in sorted(job.spec.rendezvous.conf.items()))
    return {
        "MASTER_ADDR": lead,
        "MASTER_PORT": port,
        "NODE_RANK": str(index),
        "NNODES": str(nodes),
        "NPROC_PER_NODE": str(processes),
        "WORLD_SIZE": str(nodes * processes),
        "RANK_OFFSET": str(index * processes),
        **({"RANK": str(index), "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"} if processes == 1 else {}),
        "LEAD_ADDR": lead,
        "NODE_HOSTFILE": f"{_DIRECTORY}/{_HOSTFILE}",
        "PET_NNODES": str(nodes),
        "PET_NPROC_PER_NODE": str(processes),
        "PET_NODE_RANK": str(index),
        "PET_MASTER_ADDR": lead,
        "PET_MASTER_PORT": port,
        "PET_MAX_RESTARTS": "0",  # the operator starts all nodes again
        "PET_RDZV_BACKEND": job.spec.rendezvous.backend,
        "PET_RDZV_ID": job.metadata.uid,
        **({"PET_RDZV_CONF": conf} if conf else {}),
        "PET_MONITOR_INTERVAL": "0.1",
    }


def _problems(spec: TorchrunJobSpec) -> Iterator[Problem]:
    if not spec.static:
        return
    if spec.min_nodes != spec.max_nodes:
        yield Problem("spec.nnodes", remedies.STATIC_NODES)
    if not isinstance(spec.nproc_per_node, int):
        yield Problem("spec.nprocPerNode", remedies.STATIC_PROCESSES)
    if spec.elasticity.spares:
        yield Problem("spec.elasticity.spares", remedies.STATIC_SPARES)
    if spec.progress_deadline_seconds:
        yield Problem("spec.progressDeadlineSeconds", remedies.STATIC_PROGRESS)
    if spec.rendezvous.template is not None:
        yield Problem("spec.rendezvous.template", remedies.STATIC_TEMPLATE)
    if _names_ours(spec.trainer.get("env") or ()):
        yield Problem("spec.template", remedies.STATIC_VARIABLES)
    if spec.lead is not None and _names_ours(spec.lead.env):
        yield Problem("spec.lead.env", remedies.STATIC_VARIABLES)


def _names_ours(env: tuple[Manifest, ...] | list[Manifest]) -> bool:
    return any(variable.get("name") in STATIC_ENV for variable in env)


def _unwanted(job: TorchrunJob) -> Iterator[Manifest]:
    if job.changed and not job.spec.static:
        yield {"kind": "ConfigMap", "metadata": owned_metadata(job, hosts_name(job.metadata.name))}


PART = Part(prerequisites=_config_map, node=_node, problems=_problems, unwanted=_unwanted)
