"""The pod that uploads the outputs, in a small world: through the end of a job, restarts, errors and retries."""

import json
from typing import Any

import pytest

from crashes import cancelled_at, fails_at
from torchrun_operator.api.names import ANNOTATION_RETRY_OUTPUTS
from world import World, reasons, started

OUTPUTS = [
    {"path": "/snapshots/model", "url": "s3://results/model"},
    {"path": "/snapshots/logs", "url": "s3://results/logs", "when": "Periodic", "seconds": 60},
]
SPEC: dict[str, Any] = {"snapshots": {"claimName": "shared"}, "outputs": OUTPUTS}
NAME = "digits-outputs"


def finish_upload(world: World, *errors: str) -> None:
    """End the pod that uploads: each container well, or with that error."""
    pod = world.pods[NAME]
    names = [container["name"] for container in pod["spec"]["containers"]]
    said = [*errors, *[""] * (len(names) - len(errors))]
    pod["status"] |= {
        "phase": "Failed" if any(errors) else "Succeeded",
        "containerStatuses": [
            {
                "name": name,
                "state": {
                    "terminated": {
                        "exitCode": 1 if error else 0,
                        "reason": "Error" if error else "Completed",
                        "message": json.dumps({"files": 2, "bytes": 9, **({"error": error} if error else {})}),
                    }
                },
            }
            for name, error in zip(names, said, strict=True)
        ],
    }
    world.cluster.touch(pod)


def containers(world: World) -> list[str]:
    return [container["name"] for container in world.pods[NAME]["spec"]["containers"]]


def states(world: World) -> list[str]:
    return [output["state"] for output in world.status["outputs"]]


def retry(world: World, value: str) -> None:
    world.job["metadata"].setdefault("annotations", {})[ANNOTATION_RETRY_OUTPUTS] = value
    world.cluster.touch(world.job)


async def test_from_the_training_to_the_copy() -> None:
    world = await started(**SPEC)
    assert (containers(world), states(world)) == (["output-1"], ["Waiting", "Uploading"])
    assert world.condition("OutputsUploaded")["reason"] == "UploadingPeriodically"
    first = world.pods[NAME]["metadata"]["uid"]
    world.succeed()
    await world.settle()
    assert world.status["state"] == "Complete"
    assert world.pods[NAME]["metadata"]["uid"] != first
    assert (containers(world), states(world)) == (["output-0", "output-1"], ["Uploading", "Uploading"])
    program = world.cluster.objects["ConfigMap", "team", "digits-rdzv"]["binaryData"]
    assert "transfer.pyz" in program
    finish_upload(world)
    await world.settle()
    assert world.condition("OutputsUploaded")["status"] == "True"
    assert (states(world), world.status["state"]) == (["Uploaded", "Uploaded"], "Complete")
    assert [(output["files"], output["bytes"]) for output in world.status["outputs"]] == [(2, 9), (2, 9)]
    world.delete(NAME)
    world.restart_operator()
    await world.settle()
    assert NAME not in world.pods


async def test_a_failed_upload_is_repeated_without_training() -> None:
    world = await started(**SPEC)
    world.succeed()
    await world.settle()
    finish_upload(world, "s3://results/model refuses access")
    await world.settle()
    assert world.condition("OutputsUploaded")["reason"] == "UploadFailed"
    assert (states(world), world.status["state"]) == (["Failed", "Uploaded"], "Complete")
    assert "UploadFailed" in reasons(world)
    nodes = {name: pod["metadata"]["uid"] for name, pod in world.nodes.items()}
    former = world.pods[NAME]["metadata"]["uid"]
    retry(world, "1")
    world.restart_operator()
    await world.settle()
    assert world.pods[NAME]["metadata"]["uid"] != former
    finish_upload(world)
    await world.settle()
    assert world.condition("OutputsUploaded")["status"] == "True"
    assert {name: pod["metadata"]["uid"] for name, pod in world.nodes.items()} == nodes


async def test_suspended_jobs_upload_nothing_and_go_on_later() -> None:
    world = await started(**SPEC)
    world.cluster.edit(world.job, suspend=True)
    await world.settle()
    assert world.pods == {}
    world.cluster.edit(world.job, suspend=False)
    await world.settle()
    assert containers(world) == ["output-1"]


@pytest.mark.parametrize("after", [False, True])
async def test_the_operator_ends_at_any_request(after: bool) -> None:
    for number in range(1, 200):
        world = await started(**SPEC)
        world.succeed()
        hit = await cancelled_at(world, number, after=after)
        world.restart_operator()
        await world.settle()
        assert (world.status["state"], containers(world)) == ("Complete", ["output-0", "output-1"])
        finish_upload(world)
        await world.settle()
        assert states(world) == ["Uploaded", "Uploaded"]
        if not hit:
            return
    raise AssertionError("there were always more requests")


@pytest.mark.parametrize("after", [False, True])
async def test_any_request_fails(after: bool) -> None:
    for number in range(1, 200):
        world = await started(**SPEC)
        world.succeed()
        hit = await fails_at(world, number, after=after)
        assert (world.status["state"], containers(world)) == ("Complete", ["output-0", "output-1"])
        if not hit:
            return
    raise AssertionError("there were always more requests")
