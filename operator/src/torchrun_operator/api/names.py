"""Names that the operator uses: API group, labels, owned objects, reserved environment variables."""

from collections.abc import Mapping
from typing import Any, Final

GROUP: Final = "torchrun.dev"
VERSION: Final = "v1alpha1"
API_VERSION: Final = f"{GROUP}/{VERSION}"
KIND: Final = "TorchrunJob"
PLURAL: Final = "torchrunjobs"
SINGULAR: Final = "torchrunjob"
SHORT_NAME: Final = "trj"
CATEGORIES: Final = ("all", "training")

FIELD_MANAGER: Final = "torchrun-operator"
MANAGED_BY: Final = "torchrun-operator"

MANAGER: Final = f"{GROUP}/operator"
"""The value of spec.managedBy with which this operator acts, as without the field."""
LABEL_JOB_NAME: Final = f"{GROUP}/job-name"
LABEL_ROLE: Final = f"{GROUP}/role"
LABEL_NODE_INDEX: Final = f"{GROUP}/node-index"
LABEL_COMPONENT: Final = f"{GROUP}/component"
COMPONENT_OPERATOR: Final = "operator"
"""The value of LABEL_COMPONENT on the pods of the operator."""
LABEL_MANAGED_BY: Final = "app.kubernetes.io/managed-by"
ANNOTATION_TOKEN_DIGEST: Final = f"{GROUP}/token-digest"
"""On the rendezvous Pod: the hex SHA-256 of the token that the rendezvous host accepts."""
ANNOTATION_SPEC_DIGEST: Final = f"{GROUP}/spec-digest"
"""On every pod: the digest of the frozen fields of the spec that it was made from."""
ANNOTATION_LEAD_UID: Final = f"{GROUP}/lead-uid"
"""On the pods of a static job except the lead's: the metadata.uid of the lead's pod that they start with."""
ANNOTATION_LEAD_ADDRESS: Final = f"{GROUP}/lead-address"
"""On the same pods: the address of that pod."""
ANNOTATION_OUTPUTS_DIGEST: Final = f"{GROUP}/outputs-digest"
"""On the Pod that uploads: the digest of what it was asked to do."""
ANNOTATION_RETRY_OUTPUTS: Final = f"{GROUP}/retry-outputs"
"""On a job: a new value, such as a time, uploads its outputs once more."""
ROLE_NODE: Final = "node"
ROLE_RENDEZVOUS: Final = "rendezvous"
ROLE_OUTPUTS: Final = "outputs"

TRAINER_CONTAINER: Final = "trainer"
"""Name of the container that runs torchrun."""
RENDEZVOUS_CONTAINER: Final = "rendezvous"
RENDEZVOUS_ENV_PREFIX: Final = "RDZV_"
"""Prefix of the variables that the operator sets in that container."""
RENDEZVOUS_RESOURCES: Final = ("cpu", "memory", "ephemeral-storage")
"""What that container may request."""
READINESS_GATE: Final = f"{GROUP}/counts-as-a-node"
"""Condition of the rendezvous Pod that is never true."""
"""Name of the container of the rendezvous pod."""

OUTPUT_CONTAINER_PREFIX: Final = "output-"
"""With the position in spec.outputs: the name of the container that uploads it."""
INPUT_CONTAINER_PREFIX: Final = "torchrun-input-"
"""With the position in spec.inputs: the name of the init container that fetches it."""
MAX_TRANSFERS: Final = 16
"""How many inputs, and how many outputs, a job may have."""
OUTPUT_SCHEMES: Final = ("s3", "gs", "gcs", "az", "abfs", "abfss", "pvc", "nfs", "file")
INPUT_SCHEMES: Final = (*OUTPUT_SCHEMES, "http", "https", "hf")

STOPPED_AFTER_SECONDS: Final = 1
"""The activeDeadlineSeconds of a pod that the operator stops. It has run for longer, so its kubelet ends it at once."""

MAX_NODES: Final = 1000
MAX_ROUNDS: Final = 20
"""How many rounds the status keeps."""
MIN_PROGRESS_DEADLINE: Final = 10
"""Seconds. Scripts report progress every second or two."""
MAX_SPARES: Final = 100
MODULE_PATTERN: Final = r"^[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*$"
"""The full name of a Python module."""

WORKER_PYTHON: Final = "PYTHON_EXEC"
"""Environment variable that names the program with which torchrun starts workers."""
MAX_PROCESSES_PER_NODE: Final = 256

MAX_JOB_NAME_LENGTH: Final = 54
"""Leaves room for the longest suffix within the 63 characters of a DNS label."""

PORT_STORE: Final = 29400
PORT_HTTP: Final = 29401
PORT_LIGHTHOUSE: Final = 29510
"""torchft's default."""

RESERVED_PREFIX: Final = "torchrun-"
"""Prefix of the volumes of the operator."""

RESERVED_ENV_PREFIXES: Final = ("PET_RDZV_", "TORCHRUN_")
RESERVED_ENV: Final = (
    "PET_NNODES",
    "PET_NPROC_PER_NODE",
    "PET_MAX_RESTARTS",
    "PET_LOCAL_ADDR",
    "PET_MONITOR_INTERVAL",
    "PET_NODE_RANK",
    "PET_MASTER_ADDR",
    "PET_MASTER_PORT",
    "PET_STANDALONE",
    "TORCH_DISABLE_SHARE_RDZV_TCP_STORE",
    "TORCH_ELASTIC_WORKER_IDENTICAL",
    "TORCHELASTIC_ERROR_FILE",
    "TORCHELASTIC_RUN_ID",
    "TORCHELASTIC_RESTART_COUNT",
    "TORCHELASTIC_MAX_RESTARTS",
    "TORCHELASTIC_USE_AGENT_STORE",
    "MASTER_ADDR",
    "MASTER_PORT",
    "RANK",
    "WORLD_SIZE",
    "LOCAL_RANK",
    "LOCAL_WORLD_SIZE",
    "GROUP_RANK",
    "GROUP_WORLD_SIZE",
    "ROLE_RANK",
    "ROLE_WORLD_SIZE",
    "POD_IP",
    "POD_NAME",
)
"""Environment variables that the operator or torchrun sets in the trainer container."""

STATIC_ENV: Final = (
    "NODE_RANK",
    "NNODES",
    "NPROC_PER_NODE",
    "RANK_OFFSET",
    "LEAD_ADDR",
    "LEAD_IP",
    "NODE_HOSTS",
    "NODE_HOSTFILE",
)
"""Further environment variables that the operator sets in the trainer container of a static job."""

RESERVED_RDZV_CONF: Final = (
    "is_host",
    "store_type",
    "join_timeout",
    "last_call_timeout",
    "keep_alive_interval",
    "keep_alive_max_attempt",
    "use_libuv",
)
"""Rendezvous settings that the operator depends on. A job cannot change them."""

PROGRAMS_DIRECTORY: Final = "/torchrun-operator"
"""Where pods find the programs of the operator."""
RESERVED_DIRECTORIES: Final = ("dev", "proc", "sys", PROGRAMS_DIRECTORY.removeprefix("/"))
"""Directories below / that can hold neither inline files nor snapshots."""
MAX_FILES_BYTES: Final = 900 * 1024
"""Inline files share one ConfigMap, whose limit is 1 MiB."""
ALLOWED_NCCL_PREFIXES: Final = ("NCCL", "TORCH_NCCL", "OFI_NCCL", "GLOO", "FI", "UCX")
"""Prefixes, without the underscore, of the variables that ``spec.nccl.env`` may set."""

TERMINATION_LOG: Final = "/dev/termination-log"


def is_reserved_env(name: str) -> bool:
    """Whether this variable is reserved, so that the trainer container cannot set it."""
    return name in RESERVED_ENV or name.startswith(RESERVED_ENV_PREFIXES)


def service_name(job: str) -> str:
    """Name of the headless Service of the nodes."""
    return job


def other_manager(spec: Mapping[str, Any]) -> str:
    """Return the controller other than this operator that acts on a job with this spec. Empty: this operator does."""
    manager = spec.get("managedBy")
    return "" if manager in (None, MANAGER) else str(manager)


def rendezvous_name(job: str) -> str:
    """Name of the Pod, Service and ConfigMap of the rendezvous host."""
    return f"{job}-rdzv"


def node_policy_name(job: str) -> str:
    """Name of the NetworkPolicy of the nodes."""
    return f"{job}-nodes"


def files_name(job: str) -> str:
    """Name of the ConfigMap with the inline files."""
    return f"{job}-files"


def hosts_name(job: str) -> str:
    """Name of the ConfigMap with the names of all nodes of a static job."""
    return f"{job}-hosts"


def snapshots_name(job: str) -> str:
    """Name of the PersistentVolumeClaim created from ``spec.snapshots.volumeClaimTemplate``."""
    return f"{job}-snapshots"


def outputs_name(job: str) -> str:
    """Name of the Pod that uploads the outputs."""
    return f"{job}-outputs"


def node_name(job: str, index: int) -> str:
    """Name of the Pod of one node."""
    return f"{job}-{index}"


def node_host(job: str, index: int) -> str:
    """DNS name of one node, in the namespace of the job."""
    return f"{node_name(job, index)}.{service_name(job)}"


def other_node_name(job: str, index: int, number: int) -> str:
    """Name of the Pod of one node while ``number`` - 1 former Pods of the node keep theirs. No other job has it."""
    return f"{node_name(job, index)}-r{number}"


def node_selector(job: str) -> str:
    """Label selector of the node Pods, the value of ``status.selector``."""
    return f"{LABEL_JOB_NAME}={job},{LABEL_ROLE}={ROLE_NODE}"
