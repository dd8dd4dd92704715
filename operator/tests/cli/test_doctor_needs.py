"""Whether what the pods of a job need is there: images, Secrets, ConfigMaps, claims."""

from typing import Any

import pytest

from doctor_jobs import FAILED, OK, PODS, WARNING, Row, case, check, job, named, pod, with_template, with_trainer
from torchrun_cli.doctor.findings import Finding
from torchrun_cli.doctor.references import claims, config_maps, images, secrets, service_accounts


def waiting(reason: str) -> dict[str, Any]:
    return {"phase": "Pending", "containerStatuses": [{"image": "train:9", "state": {"waiting": {"reason": reason}}}]}


CORRECT = "correct the image, or the imagePullSecrets, of spec.template (suspend the job, change it, resume it)"


@pytest.mark.parametrize(
    ("pods", "expected"),
    [
        pytest.param(PODS, [(OK, "all pods have theirs")], id="all pulled"),
        pytest.param(
            (pod("0", **waiting("ImagePullBackOff")), pod("1", **waiting("ImagePullBackOff"))),
            [(FAILED, "digits-0, digits-1 cannot pull train:9 (ImagePullBackOff)", CORRECT)],
            id="two pods, one image",
        ),
        pytest.param(
            (pod("0", phase="Pending"),),
            [(OK, "no image has failed; digits-0 has not pulled its own yet")],
            id="not yet",
        ),
        pytest.param((), [], id="no pods"),
        pytest.param((pod("0", of="another", **waiting("ErrImagePull")),), [], id="a pod of an earlier job"),
    ],
)
def test_images(pods: tuple[Any, ...], expected: list[Row]) -> None:
    check(images, case(job(), pods=pods), *expected)


TOKEN = {"env": [{"name": "T", "valueFrom": {"secretKeyRef": {"name": "hf", "key": "t"}}}]}
CREATE = "create it in the namespace ml, or correct the name in the job"


@pytest.mark.parametrize(
    ("found", "pods", "there", "expected"),
    [
        pytest.param(with_trainer(job(), **TOKEN), (), ["hf"], [(OK, "hf exists")], id="there"),
        pytest.param(
            with_trainer(job(), **TOKEN),
            (),
            [],
            [(FAILED, "Secret hf does not exist, and the pods name it", CREATE)],
            id="missing",
        ),
        pytest.param(
            with_trainer(job(), **TOKEN),
            PODS,
            [],
            [(WARNING, "Secret hf does not exist, and the pods name it", CREATE)],
            id="missing, and all pods run already",
        ),
        pytest.param(
            with_template(
                job(), imagePullSecrets=[{"name": "a"}], volumes=[{"name": "v", "secret": {"secretName": "b"}}]
            ),
            (),
            [],
            [(FAILED, "Secret a, b do not exist, and the pods name it", CREATE)],
            id="two",
        ),
        pytest.param(
            with_trainer(job(), envFrom=[{"secretRef": {"name": "o", "optional": True}}]), (), [], [], id="optional"
        ),
        pytest.param(
            job(
                snapshots={"claimName": "c"},
                outputs=[{"path": "/snapshots/m", "url": "s3://b/m", "secretRef": {"name": "s3"}}],
            ),
            (),
            [],
            [(FAILED, "Secret s3 does not exist, and the pods name it", CREATE)],
            id="of an output",
        ),
    ],
)
def test_secrets(found: dict[str, Any], pods: tuple[Any, ...], there: list[str], expected: list[Row]) -> None:
    check(secrets, case(found, pods=pods, secrets=tuple(named("Secret", each) for each in there)), *expected)


def test_config_maps_and_service_accounts() -> None:
    found = with_template(job(nccl={"configMapRef": {"name": "pool"}}), serviceAccountName="trainer")
    words = "ConfigMap pool does not exist, and the pods name it"
    check(config_maps, case(found, pods=()), (FAILED, words, CREATE))
    check(config_maps, case(job(files=[{"path": "/a", "content": "x"}]), pods=()))  # the operator creates that
    words = "ServiceAccount trainer does not exist, and the pods name it"
    check(service_accounts, case(found, pods=()), (FAILED, words, CREATE))


def claim(mode: str, phase: str = "Bound", storage_class: str | None = "std") -> dict[str, Any]:
    spec_of = {"accessModes": [mode], **({"storageClassName": storage_class} if storage_class else {})}
    return named("PersistentVolumeClaim", "c", spec=spec_of, status={"phase": phase})


def classes(provisioner: str, mode: str = "Immediate") -> tuple[dict[str, Any], ...]:
    return ({"metadata": {"name": "std"}, "provisioner": provisioner, "volumeBindingMode": mode},)


CLAIMS = [
    pytest.param([claim("ReadWriteMany")], (), [(OK, "c: bound, and fit for all nodes")], id="shared"),
    pytest.param(
        [], (), [(FAILED, "PersistentVolumeClaim c does not exist, and the pods name it", CREATE)], id="missing"
    ),
    pytest.param(
        [claim("ReadWriteOnce")],
        (),
        [
            (
                *(FAILED, "c has the access mode ReadWriteOnce: pods on a second Kubernetes node cannot mount it"),
                "use a claim with ReadWriteMany, or keep all nodes on one Kubernetes node",
            )
        ],
        id="one Kubernetes node only",
    ),
    pytest.param(
        [claim("ReadWriteMany", "Pending")],
        classes("ebs.csi.aws.com"),
        [
            (
                *(FAILED, "c asks for ReadWriteMany, which ebs.csi.aws.com of the class std cannot do"),
                "create the claim again with a class for shared file systems",
            )
        ],
        id="a class that cannot share",
    ),
    pytest.param(
        [claim("ReadWriteMany", "Pending", "fast")],
        classes("nfs.csi.k8s.io"),
        [
            (
                *(FAILED, "c asks for the storage class fast, which does not exist"),
                "there are std; create the claim again with one of them",
            )
        ],
        id="no such class",
    ),
    pytest.param(
        [claim("ReadWriteMany", "Pending", None)],
        classes("nfs.csi.k8s.io"),
        [
            (
                *(FAILED, "c names no storage class, and the cluster has no default one"),
                "create the claim again with one of std",
            )
        ],
        id="no default class",
    ),
    pytest.param(
        [claim("ReadWriteMany", "Pending")],
        classes("nfs.csi.k8s.io", "WaitForFirstConsumer"),
        [(OK, "c is bound once the first pod has a Kubernetes node")],
        id="late binding",
    ),
]


@pytest.mark.parametrize(("claims_of", "of_cluster", "expected"), CLAIMS)
def test_claims(claims_of: list[Any], of_cluster: tuple[Any, ...], expected: list[Row]) -> None:
    found = job(snapshots={"claimName": "c"})
    lists = {"persistentvolumeclaims": tuple(claims_of), "storageclasses": of_cluster, "pods": ()}
    got = list(claims(case(found, **lists), "c"))
    assert [each for each in got if each.level is not OK or len(got) == 1] == [Finding("c", *row) for row in expected]
