"""The recipes of e2e/tests/recipes: they have what recipes have, and what they become passes all rules."""

import re
from pathlib import Path
from typing import Any

import pytest

from support import cli
from support.recipecases import CASES
from support.recipes import (
    MANIFEST,
    RECIPES,
    Recipe,
    Worker,
    check_upload,
    last_lines,
    prepare,
    problems,
    settings,
)

# What OSMO workflows and PyTorchJobs consist of, and what of the text shows it.
ELEMENTS = {
    "osmo": {
        "a loop around the tasks": r"\{% for \w+ in range\(",
        "conditions": r"\{% if ",
        "default values": r"^default-values:",
        "an address of a task": r"\{\{host:",
        "the directory of outputs": r"\{\{output\}\}",
        "the directory of an input": r"\{\{input:0\}\}",
        "the name of the run": r"\{\{workflow_id\}\}",
        "a file in the workflow": r"contents: \|",
        "a local file": r"localpath: ",
        "an output at a URL": r"outputs:\n\s+- url: ",
        "an output as a data set": r"outputs:\n\s+- dataset:",
        "a pattern for outputs": r"regex: ",
        "torchrun with fixed ranks": r"torchrun --nnodes \{\{ \w+ \}\} .*--node_rank",
        "elastic torchrun": r"--nnodes \{\{ min_nodes \}\}:\{\{ max_nodes \}\}",
        "the rendezvous of elastic torchrun": r"--rdzv_endpoint \{\{host:",
        "ranks as arguments": r"--offset \d+ --size \d+ --world_size \d+",
        "variables from the script": r"export MASTER_ADDR=",
        "one waits for the other": r"while ! nc -z",
        "a launcher with a host file": r"deepspeed --hostfile",
        "a lead": r"lead: true",
        "the lead decides": r"ignoreNonleadStatus:",
        "tasks with other resources": r"resource: master",
        "tasks with other images": r"master_image",
        "a barrier of the group": r"barrier: true",
        "a barrier in the script": r"barrier\.py --num_nodes",
        "continuous uploads": r"checkpoint:\n\s+- path: .*\n\s+url: .*\n\s+frequency: .*\n\s+regex: ",
        "an input from a URL": r"inputs:\n\s+- url: ",
        "an input from a data set": r"- dataset: \{name: words\}",
        "credentials as variables": r"credentials:\n\s+\w+:\n\s+TOKEN: ",
        "credentials as files": r"cloud: /tmp/cloud",
        "resources": r"cpu: .*\n.*gpu: .*\n.*memory: .*\n.*storage: .*\n.*platform: ",
        "excluded machines": r"nodesExcluded:",
        "a topology": r"topology:",
        "a pool": r"pool: ",
        "a priority": r"priority: ",
        "volumes of the machine": r"volumeMounts:",
        "exit actions": r"COMPLETE: [\s\S]*FAIL: [\s\S]*RESTART: ",
        "tasks that move": r"RESCHEDULE: ",
        "time limits": r"exec_timeout: .*\n\s+queue_timeout: ",
    },
    "pytorchjob": {
        "master and worker": r"Master:[\s\S]*Worker:",
        "workers alone": r"pytorchReplicaSpecs:\n    Worker:",
        "elastic sizes": r"minReplicas: \d+\n\s+maxReplicas: ",
        "the rendezvous": r"rdzvBackend: [\s\S]*rdzvPort: [\s\S]*rdzvId: [\s\S]*rdzvConf: ",
        "restarts": r"maxRestarts: ",
        "processes of elastic jobs": r"nProcPerNode: ",
        "metrics": r"metrics:",
        "processes": r"nprocPerNode: ",
        "clean-up": r"cleanPodPolicy: ",
        "a time to live": r"ttlSecondsAfterFinished: ",
        "a deadline": r"activeDeadlineSeconds: ",
        "a limit of failures": r"backoffLimit: ",
        "suspended": r"suspend: true",
        "gang scheduling": r"minAvailable: [\s\S]*queue: [\s\S]*minResources: [\s\S]*priorityClass: ",
        "another manager": r"managedBy: ",
        "variables of the operator": r"MASTER_PORT, value",
        "variables in a command": r"\$RANK[\s\S]*\$MASTER_ADDR[\s\S]*\$MASTER_PORT",
        "variables of torchrun": r"PET_\w+, value",
        "plain Python": r"command: \[python3, ",
        "a shell line": r"command: \[bash, -c\]",
        "a sidecar": r"name: logger",
        "the container pytorch": r"name: pytorch\b",
        "a restart policy": r"restartPolicy: ExitCode",
    },
}


@pytest.mark.parametrize("kind", ELEMENTS)
def test_every_element_is_in_a_recipe(kind: str) -> None:
    text = "\n".join(path.read_text() for path in sorted((RECIPES / kind).glob("*.yaml")))
    missing = [element for element, pattern in ELEMENTS[kind].items() if not re.search(pattern, text, re.MULTILINE)]
    assert missing == []


def test_every_recipe_is_played_once() -> None:
    found = sorted(str(path.relative_to(RECIPES)) for path in RECIPES.glob("*/*.yaml"))
    assert sorted(recipe.file for recipe in CASES) == found
    counts = {kind: sum(file.startswith(f"{kind}/") for file in found) for kind in ("osmo", "pytorchjob", "trainjob")}
    assert counts == {"osmo": 5, "pytorchjob": 5, "trainjob": 2}


@pytest.mark.parametrize("recipe", CASES, ids=lambda recipe: recipe.file)
def test_what_a_recipe_becomes_passes_all_rules(recipe: Recipe, tmp_path: Path) -> None:
    manifest = prepare(recipe, tmp_path, "team-a", "registry.example.com/mine:2")
    cli.run("validate", str(manifest), *settings(recipe, "registry.example.com/mine:2"))


def worker(rank: int, **changes: Any) -> Worker:
    usual = {"world": 2, "node": f"a-{rank}", "steps": 5, "first": 2.0, "last": 1.0, "weights": "f00", "tag": "-"}
    return Worker(rank=rank, **{**usual, **changes})


TRAININGS: dict[str, tuple[list[Worker], list[str]]] = {
    "together": ([worker(0), worker(1)], []),
    "in two worlds": (
        [worker(0, world=1), worker(0, world=1, node="a-1", weights="bad")],
        ["ranks: [0, 0], not [0, 1]", "sizes of the world: {1}, not {2}", "different weights: 2, not 1"],
    ),
    "one is missing": (
        [worker(0)],
        [
            "ranks: [0], not [0, 1]",
            "workers of nodes: {'a-0': 1}, not {'a-0': 1, 'a-1': 1}",
            "workers that learned: 1, not 2",
        ],
    ),
    "too few steps": ([worker(0, steps=4), worker(1, steps=4)], ["steps: {4}, not {5}"]),
    "nothing learned": ([worker(0, last=1.9), worker(1)], ["workers that learned: 1, not 2"]),
    "other arguments": ([worker(0, tag="x"), worker(1, tag="x")], ["tags: {'x'}, not frozenset({'-'})"]),
}


@pytest.mark.parametrize(("workers", "found"), TRAININGS.values(), ids=TRAININGS)
def test_problems_of_a_training(workers: list[Worker], found: list[str]) -> None:
    assert problems(Recipe("f", "a", nodes=2, workers=1, steps=5), workers) == found


def test_the_last_line_of_a_worker() -> None:
    log = "barrier=1 nodes=2\nrank=1 world=2 node=a-1 steps=5 first=2.0000 last=1.0000 weights=f00 tag=role=x\n"
    assert last_lines(log) == [worker(1, tag="role=x")]
    two = log.replace(
        "tag=role=x", "tag=role=xrank=0 world=2 node=a-0 steps=5 first=2.0 last=1.0 weights=f00 tag=role=x\n"
    )
    assert last_lines(two) == [worker(1, tag="role=x"), worker(0, tag="role=x")]


@pytest.mark.parametrize(
    ("sums", "names", "whole"),
    [
        ({"a": "1", MANIFEST: "9"}, {"a"}, True),
        ({"a": "2", MANIFEST: "9"}, {"a"}, False),
        ({"a": "1", "b": "1", MANIFEST: "9"}, {"a"}, False),
        ({"a": "1", MANIFEST: "9"}, {"a", "b"}, False),
    ],
)
def test_uploads_are_compared_with_their_manifest(sums: dict[str, str], names: set[str], whole: bool) -> None:
    manifest = '{"files": [{"path": "a", "sha256": "1"}]}'
    if whole:
        check_upload(manifest, sums, frozenset(names))
    else:
        with pytest.raises(AssertionError):
            check_upload(manifest, sums, frozenset(names))
