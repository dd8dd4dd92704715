"""The part of the spec about files that come from elsewhere and go elsewhere: inputs and outputs."""

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from torchrun_operator.api.base import Model
from torchrun_operator.api.names import MAX_TRANSFERS


class When(StrEnum):
    """When an output is uploaded."""

    SUCCESS = "Success"
    ALWAYS = "Always"
    PERIODIC = "Periodic"


class SecretReference(Model):
    """A Secret in the namespace of the job."""

    name: Annotated[
        str, Field(description="Name of the Secret, in the namespace of the job.", min_length=1, max_length=253)
    ]


Url = Annotated[str, Field(min_length=1, max_length=1024)]
Path = Annotated[str, Field(min_length=1, max_length=256)]
Pattern = Annotated[str, Field(min_length=1, max_length=256)]
_CREDENTIALS = (
    "A Secret whose keys become environment variables of the container that transfers the files, such as "
    "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_ENDPOINT_URL. Only the kubelet reads it. If unset, the service "
    "account of spec.template applies."
)


class Input(Model):
    """Files that are fetched before the training starts."""

    url: Annotated[
        Url,
        Field(
            description="Where the files are: an object or all objects below a prefix (s3, gs, gcs, az, abfs, abfss), "
            "http or https (one file), hf, pvc://CLAIM/PATH, nfs://SERVER/PATH, or file:///PATH in the image. "
            "Example: s3://datasets/digits."
        ),
    ]
    path: Annotated[
        Path,
        Field(
            description="Directory of the trainer container that gets the files. It lies on a volume of its own in "
            "each pod, or on the volume that the trainer mounts there. Example: /data."
        ),
    ]
    secret_ref: Annotated[SecretReference | None, Field(description=_CREDENTIALS)] = None


class Output(Model):
    """Files that are uploaded from a volume of the job."""

    path: Annotated[
        Path,
        Field(
            description="Directory or file of the trainer container. It must lie on a volume that outlives the pods: "
            "spec.snapshots, or a PersistentVolumeClaim or NFS volume of the template. Example: /snapshots/model."
        ),
    ]
    url: Annotated[
        Url,
        Field(
            description="Where the files go: a prefix (s3, gs, gcs, az, abfs, abfss), pvc://CLAIM/PATH, "
            "nfs://SERVER/PATH, or file:///PATH on a volume that outlives the pods. The file _torchrun_manifest.json "
            "there comes last, and lists all files with their checksums. Example: s3://results/digits."
        ),
    ]
    include: Annotated[
        tuple[Pattern, ...],
        Field(
            description="Patterns of the files to upload; all if empty. * and ? match within a name, ** across "
            'directories; a pattern without / matches names in any directory. Example: ["*.pt", "logs/**"].',
            max_length=32,
        ),
    ] = ()
    exclude: Annotated[
        tuple[Pattern, ...],
        Field(description='Patterns of files not to upload. They win over include. Example: ["*.tmp"].', max_length=32),
    ] = ()
    when: Annotated[
        When,
        Field(
            description="Success: once the job is complete. Always: once it is complete or has failed. Periodic: every "
            "spec.outputs[].seconds while it trains, and at the end as Always."
        ),
    ] = When.SUCCESS
    seconds: Annotated[
        int | None,
        Field(
            description="Pause in seconds between two uploads if when is Periodic; 300 if unset. Example: 60.",
            ge=5,
            le=86400,
        ),
    ] = None
    secret_ref: Annotated[SecretReference | None, Field(description=_CREDENTIALS)] = None


class Transfer(Model):
    """How inputs and outputs are transferred."""

    image: Annotated[
        str | None,
        Field(
            description="Image of the containers that transfer files: Python 3.10 or newer and, for other URLs than "
            "file, pvc and nfs, fsspec with the package for the URL, such as s3fs. If unset, the image of the trainer "
            "container.",
            min_length=1,
            max_length=1024,
        ),
    ] = None


Inputs = Annotated[
    tuple[Input, ...],
    Field(
        description="Files to fetch into every pod before the training starts.",
        max_length=MAX_TRANSFERS,
    ),
]
Outputs = Annotated[
    tuple[Output, ...],
    Field(
        description="Files to upload, once for the whole job, by a pod of their own. You can change this field at any "
        "time, also after the job has ended.",
        max_length=MAX_TRANSFERS,
    ),
]
