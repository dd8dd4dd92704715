"""The models of a TorchrunJob: defaults, reading, writing, and error messages."""

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from pydantic import ValidationError

from torchrun_operator.api.base import rfc3339
from torchrun_operator.api.nnodes import NodeRange, parse_nnodes, parse_nproc_per_node
from torchrun_operator.api.torchrun import reserved_options
from torchrun_operator.api.v1alpha1 import (
    Elasticity,
    File,
    Nccl,
    NodeStatus,
    Rendezvous,
    RendezvousBackend,
    RendezvousHost,
    Snapshots,
    TorchrunJobSpec,
    TorchrunJobStatus,
    job_of,
    spec_of,
    status_of,
)
from torchrun_operator.api.validation import Problem, problems_of, readable
from torchrun_operator.core.findings.wanted import wanted as wanted_nodes
from torchrun_operator.render.validation import problems

TRAINER = {"name": "trainer", "image": "training", "futureField": {"kept": True}}
TEMPLATE = {"spec": {"containers": [{"name": "logs", "image": "shipper"}, TRAINER]}}


def raw(**spec: Any) -> dict[str, Any]:
    return {"metadata": {"name": "digits", "namespace": "lab"}, "spec": {"nnodes": "2:4", "template": TEMPLATE} | spec}


def test_defaults() -> None:
    assert spec_of(raw()) == TorchrunJobSpec(
        nnodes="2:4",
        replicas=None,
        nproc_per_node=1,
        max_restarts=3,
        rendezvous=Rendezvous(
            backend=RendezvousBackend.C10D, host=RendezvousHost.DEDICATED, port=29400, last_call_seconds=15, conf={}
        ),
        elasticity=Elasticity(spares=0, warm_start=True, preload=()),
        nccl=Nccl(env={}, config_map_ref=None),
        files=(),
        snapshots=None,
        suspend=False,
        template=TEMPLATE,
    )


def test_everything_is_read_and_written_alike() -> None:
    spec = {
        "nnodes": 4,
        "replicas": 4,
        "nprocPerNode": "gpu",
        "maxRestarts": 0,
        "failurePolicy": {
            "rules": [
                {
                    "action": "Ignore",
                    "exitCodes": {"operator": "NotIn", "values": [0, 1]},
                    "signals": ["SIGBUS"],
                    "reasons": ["OOMKilled"],
                    "messages": ["NCCL error"],
                }
            ]
        },
        "rendezvous": {
            "backend": "c10d",
            "host": "Dedicated",
            "port": 30000,
            "lastCallSeconds": 60,
            "conf": {"read_timeout": "90"},
        },
        "elasticity": {"spares": 2, "warmStart": True, "preload": ["numpy", "torch.nn"]},
        "faultTolerance": {"mode": "PerStep"},
        "nccl": {"env": {"NCCL_DEBUG": "INFO"}, "configMapRef": {"name": "pool"}},
        "files": [{"path": "/a/b.py", "content": "pass"}],
        "snapshots": {"mountPath": "/data", "claimName": "shared"},
        "lead": {
            "command": ["torchrun", "lead.py"],
            "args": ["--upload"],
            "env": [{"name": "A", "value": "1"}],
            "resources": {"limits": {"cpu": "2"}},
        },
        "completionPolicy": "Lead",
        "inputs": [{"url": "s3://datasets/x", "path": "/x", "secretRef": {"name": "s3"}}],
        "outputs": [
            {
                "path": "/data/model",
                "url": "s3://results/x",
                "include": ["*.pt"],
                "exclude": ["*.tmp"],
                "when": "Periodic",
                "seconds": 60,
                "secretRef": {"name": "s3"},
            }
        ],
        "transfer": {"image": "transfer:1"},
        "networkPolicy": False,
        "suspend": True,
        "template": TEMPLATE,
    }
    assert spec_of({"spec": spec}).wire() == spec
    assert spec_of({"spec": spec}).files == (File(path="/a/b.py", content="pass"),)
    assert spec_of({"spec": spec}).snapshots == Snapshots(mount_path="/data", claim_name="shared")


def test_template_keeps_unknown_fields() -> None:
    spec = spec_of(raw())
    assert spec.template == TEMPLATE
    assert spec.trainer == TRAINER
    assert [container["name"] for container in spec.containers] == ["logs", "trainer"]
    assert spec_of(raw(template={})).trainer == {}


@pytest.mark.parametrize(
    ("nnodes", "replicas", "range_", "wanted"),
    [
        (3, None, (3, 3), 3),
        ("3", None, (3, 3), 3),
        ("2:4", None, (2, 4), 4),
        ("2:4", 2, (2, 4), 2),
        ("1:1000", 7, (1, 1000), 7),
    ],
)
def test_wanted_nodes(nnodes: int | str, replicas: int | None, range_: tuple[int, int], wanted: int) -> None:
    spec = spec_of(raw(nnodes=nnodes, replicas=replicas))
    assert (spec.min_nodes, spec.max_nodes) == range_
    assert spec.node_range == NodeRange(*range_)
    assert wanted_nodes(spec).nodes == wanted
    assert wanted_nodes(spec, suspended=True).pods == 0


@pytest.mark.parametrize(
    ("nnodes", "words"),
    [
        ("4:2", 'MIN is greater than MAX; write "2:4"'),
        ("0", "MIN must be at least 1"),
        ("1:1001", "MAX must be at most 1000"),
        *(
            (wrong, 'write a number of nodes such as 4, or "MIN:MAX"')
            for wrong in ("", "x", "2:", ":4", 1.5, True, None)
        ),
    ],
)
def test_nnodes_that_are_none(nnodes: object, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        parse_nnodes(nnodes)


def test_range_is_written_as_torchrun_does() -> None:
    assert str(parse_nnodes("2:4")) == "2:4"


@pytest.mark.parametrize(
    ("nproc", "read"), [(1, 1), ("8", 8), (256, 256), ("gpu", "gpu"), ("cpu", "cpu"), ("auto", "auto")]
)
def test_processes_per_node(nproc: object, read: object) -> None:
    assert parse_nproc_per_node(nproc) == read


@pytest.mark.parametrize("nproc", [0, 257, "0", "1:2", "gpus", "", 1.5, True, None])
def test_processes_per_node_that_are_none(nproc: object) -> None:
    with pytest.raises(ValueError, match="write a number from 1 to 256, or one of gpu, cpu, auto"):
        parse_nproc_per_node(nproc)


def test_errors_name_fields_and_remedies() -> None:
    wrong = raw(nnodes="4:2", nprocPerNode="gpus", rendezvous={"endpoint": "x"}, files=[{"path": "/a"}])
    with pytest.raises(ValidationError) as caught:
        spec_of(wrong)
    assert problems_of(caught.value, "spec") == [
        Problem("spec.nnodes", 'MIN is greater than MAX; write "2:4"'),
        Problem("spec.nprocPerNode", "write a number from 1 to 256, or one of gpu, cpu, auto"),
        Problem("spec.rendezvous.endpoint", "unknown field; kubectl explain lists the known fields"),
        Problem("spec.files[0].content", "this field is required"),
    ]
    assert readable(caught.value, "spec").startswith('spec.nnodes: MIN is greater than MAX; write "2:4"; spec.nproc')


def test_problems_of_a_job_that_can_run() -> None:
    assert problems(job_of(raw())) == []


def test_models_cannot_be_changed() -> None:
    with pytest.raises(ValidationError):
        spec_of(raw()).suspend = True  # type: ignore[misc]


def test_job_knows_who_it_is() -> None:
    job = job_of(raw() | {"metadata": {"name": "digits", "namespace": "lab", "uid": "u", "managedFields": []}})
    assert (job.name, job.namespace, job.uid) == ("digits", "lab", "u")


@pytest.mark.parametrize("status", [{}, None])
def test_job_without_a_status(status: Any) -> None:
    assert status_of({"status": status}) == TorchrunJobStatus()


def test_status_of_a_newer_version_is_read() -> None:
    status = status_of(
        {"status": {"state": "Running", "mood": {"ratio": 1}, "nodes": [{"index": 0, "pod": "p", "x": 1}]}}
    )
    assert status.nodes == (NodeStatus(index=0, pod="p"),)
    assert "mood" not in status.wire()


@pytest.mark.parametrize(
    ("moment", "text"),
    [
        (datetime(2026, 1, 31, 12, 0, 5, 999999, tzinfo=UTC), "2026-01-31T12:00:05Z"),
        (datetime(2026, 1, 31, 12, 0, 5, tzinfo=timezone(timedelta(hours=2))), "2026-01-31T10:00:05Z"),
    ],
)
def test_moments_are_whole_seconds_in_utc(moment: datetime, text: str) -> None:
    assert rfc3339(moment) == text
    status = TorchrunJobStatus(start_time=moment)
    assert status.wire()["startTime"] == text
    assert status_of({"status": status.wire()}) == status


@pytest.mark.parametrize(
    ("command", "found"),
    [
        (["torchrun", "train.py", "--nnodes=2"], []),
        (["python", "train.py", "--nnodes=2"], []),
        (["torchrun", "--tee=3", "--log-dir", "--nnodes", "train.py"], []),
        (["torchrun", "-m", "train", "--nnodes=2"], []),
        (["torchrun", "--nnodes=2", "train.py"], [("--nnodes", "spec.nnodes")]),
        (
            ["/opt/bin/torchrun", "--tee", "3", "--nproc_per_node", "8", "a.py"],
            [("--nproc_per_node", "spec.nprocPerNode")],
        ),
        (
            ["python", "-m", "torch.distributed.run", "--standalone", "--max-restarts=1", "a.py"],
            [("--standalone", "spec.rendezvous"), ("--max-restarts", "spec.maxRestarts")],
        ),
        (["bash", "-c", "torchrun --nnodes=2 train.py"], []),
        ([], []),
    ],
)
def test_options_of_torchrun_that_the_job_sets(command: list[str], found: list[tuple[str, str]]) -> None:
    assert list(reserved_options(command)) == found


@pytest.mark.parametrize(
    ("spec", "same"),
    [
        ({}, True),
        ({"rendezvous": {"port": 29400, "conf": {}}, "nprocPerNode": 1, "files": []}, True),
        ({"replicas": 3, "suspend": True, "maxRestarts": 9, "elasticity": {"spares": 1}, "networkPolicy": False}, True),
        ({"nnodes": "2:5"}, False),
        ({"nprocPerNode": 2}, False),
        ({"rendezvous": {"port": 29500}}, False),
        ({"nccl": {"env": {"NCCL_DEBUG": "INFO"}}}, False),
        ({"files": [{"path": "/a.py", "content": ""}]}, False),
        ({"snapshots": {"claimName": "shared"}}, False),
        ({"template": {"spec": {"containers": [], "nodeSelector": {"pool": "a"}}}}, False),
    ],
)
def test_the_digest_of_what_pods_are_made_from(spec: dict[str, Any], same: bool) -> None:
    first = {"nnodes": "2:4", "template": {"spec": {"containers": []}}}
    found = [spec_of({"spec": each}).frozen_digest for each in (first, {**first, **spec})]
    assert (found[0] == found[1]) is same
