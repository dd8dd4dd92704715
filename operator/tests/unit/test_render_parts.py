"""The sum of parts: the fields of a pod, and one list of problems."""

from typing import Any

import pytest

from builders import DIGEST, make_job
from torchrun_operator.api import remedies
from torchrun_operator.api.validation import Problem
from torchrun_operator.render import catalog, node_pod, objects, rendezvous_pod, validation
from torchrun_operator.render.part import Part, Piece, total
from torchrun_operator.render.programs import Programs

HAT = Piece(
    env=({"name": "HAT", "value": "red"},),
    env_from=({"secretRef": {"name": "hats"}},),
    mounts=({"name": "hats", "mountPath": "/hats"},),
    volumes=({"name": "hats", "emptyDir": {}},),
    container_fields={"tty": True},
    pod_fields={"schedulerName": "hatter"},
    labels={"hat": "red"},
    annotations={"brim": "wide"},
)
SHOE = Piece(env=({"name": "SHOE", "value": "left"},), pod_fields={"priority": 3}, labels={"shoe": "left"})


def test_pieces_keep_the_order_of_the_parts() -> None:
    both = total([HAT, Piece(), SHOE])
    assert [variable["name"] for variable in both.env] == ["HAT", "SHOE"]
    assert both.pod_fields == {"schedulerName": "hatter", "priority": 3}
    assert both.labels == {"hat": "red", "shoe": "left"}
    assert (both.mounts, both.annotations) == (HAT.mounts, HAT.annotations)
    assert total([]) == Piece()


@pytest.mark.parametrize(
    ("piece", "name"),
    [
        (Piece(pod_fields={"schedulerName": "x"}), "schedulerName in pod_fields"),
        (Piece(container_fields={"tty": False}), "tty in container_fields"),
        (Piece(labels={"hat": "blue"}), "hat in labels"),
        (Piece(annotations={"brim": "none"}), "brim in annotations"),
    ],
)
def test_two_parts_cannot_set_the_same_field(piece: Piece, name: str) -> None:
    with pytest.raises(ValueError, match=f"two parts set {name}"):
        HAT + piece


def test_a_piece_adds_to_what_is_there() -> None:
    pod: dict[str, Any] = {"volumes": [{"name": "data"}], "schedulerName": "default"}
    container: dict[str, Any] = {"env": [{"name": "OWN"}], "volumeMounts": [{"name": "data", "mountPath": "/data"}]}
    HAT.add_to(pod, container)
    assert pod == {"volumes": [{"name": "data"}, *HAT.volumes], "schedulerName": "hatter"}
    assert container == {
        "env": [*HAT.env, {"name": "OWN"}],
        "envFrom": [*HAT.env_from],
        "volumeMounts": [{"name": "data", "mountPath": "/data"}, *HAT.mounts],
        "tty": True,
    }


def test_an_empty_piece_adds_no_field() -> None:
    pod: dict[str, Any] = {}
    container: dict[str, Any] = {"env": None}
    Piece().add_to(pod, container)
    assert (pod, container) == ({}, {"env": None})


def test_a_new_feature_is_one_entry_in_the_catalog(monkeypatch: pytest.MonkeyPatch) -> None:
    hat = {"kind": "Hat", "metadata": {"name": "hat"}}
    feature = Part(
        problems=lambda _: [Problem("spec.hat", "too small")],
        prerequisites=lambda _, __: [hat],
        services=lambda _: [hat],
        node=lambda _, __: HAT,
        rendezvous=lambda _: SHOE,
    )
    for module in (node_pod, objects, rendezvous_pod, validation):
        monkeypatch.setattr(module, "PARTS", (*catalog.PARTS, feature))
    job, programs = make_job(), Programs(rendezvous=b"", launcher=b"", transfer=b"")
    assert [str(problem) for problem in validation.problems(job)] == ["spec.hat: too small"]
    assert objects.prerequisites(job, programs, None)[-1] == objects.services(job)[-1] == hat
    pod = node_pod.node_pod(job, 1)
    assert pod["metadata"]["labels"]["hat"] == "red"
    assert pod["metadata"]["annotations"]["brim"] == "wide"
    assert pod["spec"]["schedulerName"] == "hatter"
    assert pod["spec"]["containers"][0]["env"][-1] == HAT.env[0]
    assert rendezvous_pod.rendezvous_pod(job, DIGEST)["spec"]["priority"] == 3


LEADS: dict[str, tuple[dict[str, Any], list[str]]] = {
    "without options": ({"command": ["torchrun", "t.py", "--nnodes=2"]}, []),
    "options of its own": (
        {"command": ["torchrun", "--nnodes=2", "t.py"]},
        ["spec.lead.command: remove --nnodes: the operator sets it from spec.nnodes"],
    ),
    "options in its arguments": (
        {"args": ["--rdzv_id", "a", "t.py"]},
        ["spec.lead.args: remove --rdzv_id: the operator sets it from spec.rendezvous"],
    ),
    "a variable of the operator": (
        {"env": [{"name": "PET_NNODES", "value": "2"}]},
        [f"spec.lead.env: the operator or torchrun sets PET_NNODES; {remedies.RESERVED_ENV}"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("static", [False, True])
@pytest.mark.parametrize(("lead", "found"), LEADS.values(), ids=LEADS)
def test_problems_of_the_lead(lead: dict[str, Any], found: list[str], static: bool) -> None:
    container = {"name": "trainer", "image": "train:1", "command": ["torchrun"], "args": ["t.py"]}
    backend: dict[str, Any] = {"nnodes": 2, "replicas": 2, "rendezvous": {"backend": "static"}} if static else {}
    job = make_job(lead=lead, template={"spec": {"containers": [container]}}, **backend)
    said = [str(problem) for problem in validation.problems(job)]
    assert said == [words for words in found if not (static and "remove --" in words)]


def test_problems_are_listed_from_the_size_to_the_template() -> None:
    job = make_job(
        replicas=9,
        progressDeadlineSeconds=1,
        elasticity={"spares": 100, "warmStart": False, "preload": ["numpy"]},
        rendezvous={"port": 29401, "conf": {"is_host": "1"}},
        nccl={"env": {"PATH": "x"}},
        files=[{"path": "train.py", "content": ""}],
        snapshots={"mountPath": "/dev/snapshots"},
        nnodes="1:1000",
        template={
            "spec": {
                "hostNetwork": True,
                "activeDeadlineSeconds": 3600,
                "containers": [{"name": "trainer", "env": [{"name": "RANK"}]}],
            }
        },
    )
    assert [problem.field for problem in validation.problems(job)] == [
        "spec.progressDeadlineSeconds",
        "spec.elasticity.spares",
        "spec.elasticity.preload",
        "spec.rendezvous.port",
        "spec.rendezvous.conf",
        "spec.nccl.env",
        "spec.files[0].path",
        "spec.snapshots",
        "spec.snapshots.mountPath",
        "spec.template.spec.hostNetwork",
        "spec.template.spec.activeDeadlineSeconds",
        "spec.template.spec.containers[0].env",
        "spec.template.spec.containers[0].image",
    ]
