"""What to write instead: the words of the API server's rules and of the operator's own, which are the same."""

from typing import Final

from torchrun_operator.api.names import (
    GROUP,
    MAX_JOB_NAME_LENGTH,
    MAX_NODES,
    MIN_PROGRESS_DEADLINE,
    PORT_HTTP,
    RESERVED_DIRECTORIES,
    RESERVED_PREFIX,
    TERMINATION_LOG,
    TRAINER_CONTAINER,
    WORKER_PYTHON,
)

_RESERVED: Final = f"/{', /'.join(RESERVED_DIRECTORIES)}"

JOB_NAME: Final = (
    f"the job's pods and services are named after it: write at most {MAX_JOB_NAME_LENGTH} lower case letters, digits "
    "and '-', beginning with a letter and not ending with '-'"
)
REPLICAS_BELOW_ONE: Final = "must be at least 1; to stop the job set spec.suspend to true"
PROGRESS_DEADLINE: Final = (
    f"must be at least {MIN_PROGRESS_DEADLINE}, since progress is reported every second or two; 0 switches the "
    "detection of hangs off"
)
SPARES: Final = f"MAX of spec.nnodes and the spares may be {MAX_NODES} together, the most nodes that one job can have"
PRELOAD: Final = "set spec.elasticity.warmStart to true: without it nothing is loaded ahead"
WORKER_PYTHON_TAKEN: Final = (
    f"remove {WORKER_PYTHON} from the trainer container, or set spec.elasticity.warmStart to false: the operator sets "
    "it to start workers warm"
)
CONTROL_PORT: Final = f"{PORT_HTTP} is the port of the rendezvous host's control; choose another, such as 29400"
RDZV_CONF: Final = 'write keys as in torchrun --rdzv-conf, such as read_timeout: "120", and values without "," or "="'
FILE_PATH: Final = 'write an absolute path without "." and "..", ":" and "//", such as /workspace/train.py'
FILE_PATH_RESERVED: Final = f"no file can be put below {_RESERVED}; choose another directory, such as /workspace"
FILES_TOO_LARGE: Final = "the files may have 900 KiB together; put larger ones into the image or onto a volume"
FILE_INSIDE_FILE: Final = "a path leads through another file; choose paths so that no file is the directory of another"
FILE_ON_MOUNT: Final = (
    "the trainer container mounts a volume at the path of a file; choose another path or remove the volumeMount"
)
NO_CLAIM: Final = "set claimName to an existing PersistentVolumeClaim, or volumeClaimTemplate to have one made"
TWO_CLAIMS: Final = "set either claimName or volumeClaimTemplate, not both"
ACCESS_MODES: Final = "write how the volume is used: [ReadWriteMany], which nodes on several machines need"
STORAGE: Final = "say how large the volume is to be: requests: {storage: 100Gi}"
MOUNT_PATH: Final = 'write an absolute path other than "/", without "." and "..", ":" and "//", such as /snapshots'
MOUNT_PATH_RESERVED: Final = f"no volume can be mounted below {_RESERVED}; choose another path, such as /snapshots"
MOUNT_PATH_AND_FILE: Final = (
    "one of spec.files is inside the snapshots' mountPath or the other way round; choose paths apart, such as "
    "/snapshots and /workspace/train.py"
)
MOUNT_PATH_TAKEN: Final = (
    "the trainer container mounts another volume at that path; choose another path or remove the volumeMount"
)
ONE_TRAINER: Final = (
    f'exactly one container must have the name "{TRAINER_CONTAINER}": name the one that runs torchrun so'
)
IMAGE: Final = "write the image that the container runs"
RESERVED_ENV: Final = (
    "remove it from the trainer container: nodes, processes and rendezvous are set by spec.nnodes, spec.nprocPerNode "
    "and spec.rendezvous"
)
TERMINATION_PATH: Final = (
    f"remove terminationMessagePath: torchrun writes the worker's error to {TERMINATION_LOG}, where the operator "
    "reads it"
)
RESTART_POLICY: Final = "remove restartPolicy or write Never: the operator replaces failed nodes, see spec.maxRestarts"
HOST_NETWORK: Final = (
    "remove hostNetwork: nodes are told apart by the addresses of their pods, and on the machine's network two of them "
    "may have the same; reach fast network cards with a device plugin or a second network"
)
VOLUME_NAME: Final = f'names that begin with "{RESERVED_PREFIX}" are the operator\'s; choose another'
METADATA_KEY: Final = f"keys that begin with {GROUP}/ are the operator's; choose others"


def host_name(field: str) -> str:
    """Tell why the template cannot set one of the fields that make a node's host name."""
    return f"remove {field}: every node is called <job>-<index> in the job's headless service"
