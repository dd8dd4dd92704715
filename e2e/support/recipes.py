"""Recipes of other systems, run as their users do it: `convert`, `submit --set`, `wait`, and a look at the results."""

import json
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from support import cli, lines
from support.clusters import ROOT, Cluster
from support.diagnosis import story
from support.kubectl import Kubectl, KubectlError
from support.waiting import wait_for

RECIPES = ROOT / "e2e" / "tests" / "recipes"
IMAGES = ("registry.example.com/train:1", "registry.example.com/base:1")
"""The images of recipes that are no templates. A person writes his own in their place."""
STORE = "store"
"""A volume, and a pod that mounts it: where data comes from, and results go to."""
MANIFEST = "_torchrun_manifest.json"
_SECONDS = 600


@dataclass(frozen=True)
class Recipe:
    """A file of another system, and what must come of it."""

    file: str
    job: str
    nodes: int
    workers: int
    """On each node."""
    settings: tuple[str, ...] = ()
    """What `--set` changes."""
    steps: int = 30
    tags: frozenset[str] = frozenset({"-"})
    """What the recipe gave to its scripts, as they printed it."""
    suspended: bool = False
    uploads: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """Directories of the store, and the files that the operator must have uploaded there."""
    results: tuple[str, ...] = ()
    """Files of the store that the training itself must have written."""


@dataclass(frozen=True)
class Worker:
    """The last line of a worker."""

    rank: int
    world: int
    node: str
    steps: int
    first: float
    last: float
    weights: str
    tag: str


def prepare(recipe: Recipe, directory: Path, namespace: str, image: str) -> Path:
    """Write the recipe and its scripts into a directory, convert it there, and return the manifest. Raises CliError.

    A recipe that is no template has its image, its namespace and the place of its data edited, as a person does it.
    """
    for script in (*RECIPES.glob("*.py"), *RECIPES.glob("*.sh")):
        shutil.copy(script, directory)
    text = (RECIPES / recipe.file).read_text()
    if not recipe.file.startswith("osmo/"):
        for name in IMAGES:
            text = text.replace(name, image)
        text = text.replace("namespace: ml", f"namespace: {namespace}").replace(f"s3://{STORE}/", f"pvc://{STORE}/")
    source, manifest = directory / "source.yaml", directory / "job.yaml"
    source.write_text(text)
    cli.run("convert", source.name, "-o", manifest.name, directory=directory)
    return manifest


def settings(recipe: Recipe, image: str) -> list[str]:
    """Return the options of submit."""
    values = [setting.replace("IMAGE", image) for setting in recipe.settings]
    return ["--set", *values] if values else []


class Play:
    """One recipe on a cluster, in a namespace with the store."""

    def __init__(self, cluster: Cluster, kubectl: Kubectl, directory: Path) -> None:
        self._cluster, self._kubectl, self._directory = cluster, kubectl, directory

    def run(self, recipe: Recipe) -> list[Worker]:
        """Convert, submit and wait. Returns the last lines of all workers, once all files are where they belong.

        Raises AssertionError with what a person would look at first.
        """
        try:
            return self._run(recipe)
        except (AssertionError, KubectlError) as error:
            error.add_note(story(self._cluster, self._kubectl))
            raise

    def _run(self, recipe: Recipe) -> list[Worker]:
        directory = self._directory / recipe.job
        directory.mkdir()
        manifest = prepare(recipe, directory, self._kubectl.namespace, self._cluster.trainer_image)
        self._tool("submit", str(manifest), *settings(recipe, self._cluster.trainer_image))
        if recipe.suspended:
            self._tool("wait", recipe.job, "--for=suspended", f"--timeout={_SECONDS}s")
            self._tool("resume", recipe.job)
        self._tool("wait", recipe.job, f"--timeout={_SECONDS}s")
        workers = self._workers(recipe)
        if recipe.uploads:
            self._tool("wait", recipe.job, "--for=condition=OutputsUploaded", f"--timeout={_SECONDS}s")
        for place, names in recipe.uploads.items():
            check_upload(self._read(f"{place}/{MANIFEST}"), self._sums(place), names)
        for file in recipe.results:
            assert self._sums(file), file
        self._tool("delete", recipe.job)
        return workers

    def _tool(self, command: str, name: str, *options: str) -> str:
        options = ("--namespace", self._kubectl.namespace, *options)
        return cli.run(command, name, *options, kubeconfig=self._kubectl.kubeconfig)

    def _workers(self, recipe: Recipe) -> list[Worker]:
        pods = self._kubectl.list("pods", f"torchrun.dev/job-name={recipe.job},torchrun.dev/role=node")
        names = [pod["metadata"]["name"] for pod in pods]
        return [worker for name in names for worker in last_lines(self._kubectl.run("logs", name, "-c", "trainer"))]

    def _read(self, path: str) -> str:
        return self._kubectl.run("exec", STORE, "--", "cat", f"/{STORE}/{path}")

    def _sums(self, place: str) -> dict[str, str]:
        """Return the checksums of a file of the store, or of all files below a directory."""
        command = f"cd /{STORE} && find {place} -type f -exec sha256sum {{}} +"
        lines = self._kubectl.run("exec", STORE, "--", "sh", "-c", command).splitlines()
        return {path.removeprefix(f"{place}/"): digest for digest, _, path in (line.partition("  ") for line in lines)}


def last_lines(log: str) -> list[Worker]:
    """Return what the workers said at their end."""
    said = re.findall(r"^rank=\d+ world=.*", lines.whole(log), re.MULTILINE)
    values = [dict(re.findall(r"(\w+)=(\S+)", line)) for line in said]
    return [
        Worker(
            rank=int(line["rank"]),
            world=int(line["world"]),
            node=line["node"],
            steps=int(line["steps"]),
            first=float(line["first"]),
            last=float(line["last"]),
            weights=line["weights"],
            tag=line["tag"],
        )
        for line in values
    ]


def problems(recipe: Recipe, workers: Sequence[Worker]) -> list[str]:
    """Return what is wrong with a training: empty if all workers trained together, to the last step."""
    world = recipe.nodes * recipe.workers
    expected = {
        "ranks": (sorted(worker.rank for worker in workers), [*range(world)]),
        "sizes of the world": ({worker.world for worker in workers}, {world}),
        "steps": ({worker.steps for worker in workers}, {recipe.steps}),
        "tags": ({worker.tag for worker in workers}, recipe.tags),
        "workers of nodes": (
            {node: sum(worker.node == node for worker in workers) for node in {worker.node for worker in workers}},
            {f"{recipe.job}-{index}": recipe.workers for index in range(recipe.nodes)},
        ),
        "different weights": (len({worker.weights for worker in workers}), 1),
        "workers that learned": (sum(worker.last < 0.8 * worker.first for worker in workers), world),
    }
    return [f"{what}: {found}, not {wanted}" for what, (found, wanted) in expected.items() if found != wanted]


def check_upload(manifest: str, sums: Mapping[str, str], names: frozenset[str]) -> None:
    """Check that an upload has these files, that they are those of its manifest, and that nothing else is there."""
    listed = {file["path"]: file["sha256"] for file in json.loads(manifest)["files"]}
    assert (set(listed), {path: digest for path, digest in sums.items() if path != MANIFEST}) == (set(names), listed)


def lend(kubectl: Kubectl, amounts: Mapping[str, str | None]) -> None:
    """Let each Kubernetes node say that it has that much of some resources; None: no more.

    Recipes ask for GPUs and disks. With these they are scheduled; their scripts find no GPU and train on the processor.
    """
    change = json.dumps({"status": {"capacity": amounts, "allocatable": amounts}})
    for machine in kubectl.list("nodes"):
        name = machine["metadata"]["name"]
        kubectl.run("patch", "node", name, "--subresource=status", "--type=merge", f"--patch={change}")
    wanted = {name for name, amount in amounts.items() if amount is not None}
    wait_for(
        f"the Kubernetes nodes have {wanted}",
        lambda: all(wanted <= set(machine["status"]["allocatable"]) for machine in kubectl.list("nodes")),
        60,
    )
