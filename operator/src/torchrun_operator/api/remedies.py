"""Messages that explain a fix. The rules in the CRD and the validation of the operator share them."""

from typing import Final

from torchrun_operator.api.names import (
    GROUP,
    INPUT_CONTAINER_PREFIX,
    INPUT_SCHEMES,
    MAX_JOB_NAME_LENGTH,
    MAX_NODES,
    MIN_PROGRESS_DEADLINE,
    OUTPUT_SCHEMES,
    PORT_HTTP,
    PORT_LIGHTHOUSE,
    RENDEZVOUS_CONTAINER,
    RENDEZVOUS_ENV_PREFIX,
    RENDEZVOUS_RESOURCES,
    RESERVED_DIRECTORIES,
    RESERVED_PREFIX,
    STATIC_ENV,
    TERMINATION_LOG,
    TRAINER_CONTAINER,
)

_RESERVED: Final = f"/{', /'.join(RESERVED_DIRECTORIES)}"

JOB_NAME: Final = (
    f"pods and services use this name: write at most {MAX_JOB_NAME_LENGTH} lowercase letters, digits and '-', starting "
    "with a letter and ending with a letter or digit"
)
REPLICAS_BELOW_ONE: Final = "must be at least 1; to stop the job, set spec.suspend to true"
PROGRESS_DEADLINE: Final = (
    f"must be at least {MIN_PROGRESS_DEADLINE}, because scripts report progress every second or two; 0 disables hang "
    "detection"
)
IGNORE_ALL: Final = (
    "add a condition: exitCodes, signals, reasons or messages; otherwise no failure would ever count, and the job "
    "could start again without end"
)
SPARES: Final = f"MAX of spec.nnodes plus the spares must be at most {MAX_NODES}; lower one of them"
PRELOAD: Final = "remove this field, or spec.elasticity.warmStart: false: it has no effect without warm starts"
PER_STEP_STATIC: Final = "write Restart, or backend: c10d: nodes with fixed ranks start together"
PER_STEP_COMMAND: Final = (
    "write Restart, or let the command of the trainer container be torchrun, with warmStart: true: the launcher must "
    "start torchrun, so that its agent lets the workers go on"
)
PER_STEP_PORT: Final = (
    f"{PORT_LIGHTHOUSE} is the port of torchft's lighthouse in the mode PerStep; choose another, such as 29400"
)
CONTROL_PORT: Final = f"{PORT_HTTP} is the control port of the rendezvous host; choose another, such as 29400"
RDZV_CONF: Final = 'write keys as in torchrun --rdzv-conf, such as read_timeout: "120", and values without "," and "="'
FILE_PATH: Final = 'write an absolute path without ".", "..", ":" and "//", such as /workspace/train.py'
FILE_PATH_RESERVED: Final = f"files cannot be mounted below {_RESERVED}; choose another directory, such as /workspace"
FILES_TOO_LARGE: Final = "all files together must have at most 900 KiB; put larger files into the image or on a volume"
FILE_INSIDE_FILE: Final = "the path of one file is the directory of another file; choose different paths"
FILE_ON_MOUNT: Final = (
    "the trainer container mounts a volume at the path of a file; choose another path, or remove the volumeMount"
)
NO_CLAIM: Final = "set claimName to an existing PersistentVolumeClaim, or set volumeClaimTemplate to create one"
TWO_CLAIMS: Final = "set either claimName or volumeClaimTemplate, not both"
ACCESS_MODES: Final = "write [ReadWriteMany], which pods on more than one Kubernetes node need, or another access mode"
STORAGE: Final = "write the size of the volume, such as requests: {storage: 100Gi}"
MOUNT_PATH: Final = 'write an absolute path other than "/", without ".", "..", ":" and "//", such as /snapshots'
MOUNT_PATH_RESERVED: Final = f"volumes cannot be mounted below {_RESERVED}; choose another path, such as /snapshots"
MOUNT_PATH_AND_FILE: Final = (
    "a path of spec.files is inside mountPath, or mountPath is inside a path of spec.files; choose separate paths, "
    "such as /snapshots and /workspace/train.py"
)
MOUNT_PATH_TAKEN: Final = (
    "the trainer container mounts another volume at this path; choose another path, or remove the volumeMount"
)
INPUT_URL: Final = f"write a URL with one of the schemes {', '.join(INPUT_SCHEMES)}, such as s3://datasets/digits"
INPUT_PATH: Final = 'write an absolute path other than "/", without ".", "..", ":" and "//", such as /data'
INPUT_PATH_RESERVED: Final = f"inputs cannot be put below {_RESERVED}; choose another path, such as /data"
INPUT_ON_FILE: Final = "a file of spec.files has this path; choose a directory of its own, such as /data"
INPUT_READ_ONLY: Final = (
    "the trainer container mounts a volume there with readOnly, so the input cannot be written; remove readOnly, or "
    "choose another path"
)
INPUT_CONTAINER: Final = (
    f"names that start with {INPUT_CONTAINER_PREFIX} are reserved for the containers that fetch inputs; choose others"
)
OUTPUT_URL: Final = (
    f"write a URL with one of the schemes {', '.join(OUTPUT_SCHEMES)} and a bucket, claim or directory, such as "
    "s3://results/digits"
)
OUTPUT_PATH: Final = 'write an absolute path without ".", "..", ":" and "//", such as /snapshots/model'
OUTPUT_NOT_MOUNTED: Final = (
    "the trainer container mounts no volume there, so the files end with the pods; write below "
    "spec.snapshots.mountPath, or mount a PersistentVolumeClaim there"
)
OUTPUT_PASSES: Final = (
    "no volume that outlives the pods, and that another pod can mount, is mounted there; write below "
    "spec.snapshots.mountPath, or mount a PersistentVolumeClaim there, without subPathExpr"
)
OUTPUT_IN_ITSELF: Final = "the url is a directory of the output itself; choose one outside of path"
OUTPUT_SECONDS: Final = "write when: Periodic, or remove this field: it has no effect otherwise"
ONE_TRAINER: Final = (
    f'exactly one container must have the name "{TRAINER_CONTAINER}": give it to the container that runs torchrun'
)
ONE_RENDEZVOUS: Final = f'write at most one container, with the name "{RENDEZVOUS_CONTAINER}"'
RENDEZVOUS_ENV: Final = f"names that start with {RENDEZVOUS_ENV_PREFIX} are reserved for the operator; choose others"
RENDEZVOUS_RESOURCES_ONLY: Final = (
    f"write only {', '.join(RENDEZVOUS_RESOURCES)}: the rendezvous host uses no other resource, such as a GPU"
)
IMAGE: Final = "write the image of the container"
RESERVED_ENV: Final = (
    "remove it from the trainer container: spec.nnodes, spec.nprocPerNode and spec.rendezvous set nodes, workers and "
    "rendezvous"
)
TERMINATION_PATH: Final = (
    f"remove terminationMessagePath: torchrun writes errors to {TERMINATION_LOG}, where the operator reads them"
)
RESTART_POLICY: Final = "remove restartPolicy, or write Never: the operator replaces failed nodes, see spec.maxRestarts"
HOST_NETWORK: Final = (
    "remove hostNetwork: the addresses of pods identify nodes, and with hostNetwork two nodes can share an address; "
    "for fast network cards, use a device plugin or a secondary network"
)
POD_DEADLINE: Final = (
    "remove activeDeadlineSeconds and write spec.activeDeadlineSeconds instead: the deadline of a pod begins again "
    "with each replacement, so that the job would start again and again"
)
VOLUME_NAME: Final = f'names that start with "{RESERVED_PREFIX}" are reserved for the operator; choose another'
STATIC_NODES: Final = (
    "the static backend needs a fixed number of nodes: write one number, such as 4, or set spec.rendezvous.backend to "
    "c10d, which is elastic"
)
STATIC_PROCESSES: Final = (
    "the static backend needs a number, such as 8: the operator computes WORLD_SIZE and RANK_OFFSET from it"
)
STATIC_SPARES: Final = (
    "the static backend has no spares, because all nodes start again when one is lost: remove this field, or set "
    "spec.rendezvous.backend to c10d"
)
STATIC_PROGRESS: Final = (
    "the static backend has no rendezvous host that reports progress: remove this field, or write 0; NCCL and gloo "
    "have timeouts of their own"
)
STATIC_TEMPLATE: Final = "the static backend has no rendezvous pod: remove this field"
STATIC_VARIABLES: Final = (
    f"with the static backend, the operator sets {', '.join(STATIC_ENV)}: remove them from the trainer container"
)
METADATA_KEY: Final = f"keys that start with {GROUP}/ are reserved for the operator; choose others"


def reserved_option(option: str, instead: str) -> str:
    """An option of torchrun that a field of the job sets, and that field."""
    return f"remove {option}: the operator sets it from {instead}"


def host_name(field: str) -> str:
    """Return the message for a field of the template that would change the host name of a node."""
    return f"remove {field}: every node has the host name <job>-<index> in the headless service of the job"
