"""OSMO workflows, PyTorchJobs and TrainJobs: each is converted and submitted, and trains in real pods."""

import secrets
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from support.clusters import Cluster
from support.kubectl import Object
from support.recipecases import CASES
from support.recipes import RECIPES, STORE, Play, Recipe, Worker, lend, problems

pytestmark = [pytest.mark.cluster, pytest.mark.recipes, pytest.mark.timeout(900, func_only=True)]

_AT_A_TIME = 3
_LENT = {"nvidia.com/gpu": "16", "ephemeral-storage": "100Gi"}
"""What each Kubernetes node of the local cluster says that it has."""


def store(image: str) -> list[Object]:
    """Return what recipes find in their namespace: data, scripts, secrets, and a volume for results."""
    copy = f"mkdir -p /{STORE}/digits && cp /opt/data/digits.csv.gz /{STORE}/digits/"
    mounts = [{"name": STORE, "mountPath": f"/{STORE}"}]
    scripts = {path.name: path.read_text() for path in (*RECIPES.glob("*.py"), *RECIPES.glob("*.sh"))}
    claim = {"accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": "1Gi"}}}
    pod = {
        "terminationGracePeriodSeconds": 0,
        "initContainers": [{"name": "copy", "image": image, "command": ["sh", "-c", copy], "volumeMounts": mounts}],
        "containers": [{"name": STORE, "image": image, "command": ["sleep", "infinity"], "volumeMounts": mounts}],
        "volumes": [{"name": STORE, "persistentVolumeClaim": {"claimName": STORE}}],
    }
    return [
        {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": STORE}, "spec": claim},
        {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": STORE}, "spec": pod},
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "scripts"}, "data": scripts},
        {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "service-login"}, "stringData": {"api_key": "key"}},
        {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "cloud"}, "stringData": {"region": "eu"}},
    ]


PRIORITY = {
    "apiVersion": "scheduling.k8s.io/v1",
    "kind": "PriorityClass",
    "metadata": {"name": "recipes-high"},
    "value": 1000,
    "preemptionPolicy": "Never",
}


@pytest.fixture(scope="module")
def played(
    cluster: Cluster, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Future[list[Worker]]]]:
    """Play the chosen recipes, several at a time, and return their results by name."""
    params = [item.callspec.params for item in request.session.items if hasattr(item, "callspec")]
    chosen = [each["recipe"] for each in params if "recipe" in each]
    kubectl = cluster.kubectl.within(f"recipes-{secrets.token_hex(3)}")
    directory: Path = tmp_path_factory.mktemp("recipes")
    pool = ThreadPoolExecutor(_AT_A_TIME)
    cluster.kubectl.run("create", "namespace", kubectl.namespace)
    try:
        cluster.kubectl.apply(PRIORITY)
        if cluster.local:
            lend(cluster.kubectl, _LENT)
        kubectl.apply(*store(cluster.trainer_image))
        kubectl.run("wait", "--for=condition=Ready", f"pod/{STORE}", "--timeout=120s")
        play = Play(cluster, kubectl, directory)
        yield {recipe.job: pool.submit(play.run, recipe) for recipe in chosen}
    finally:
        pool.shutdown(cancel_futures=True)
        cluster.kubectl.run("delete", "namespace", kubectl.namespace, "--wait=false")
        cluster.kubectl.run("delete", "priorityclass", "recipes-high", "--ignore-not-found")
        if cluster.local:
            lend(cluster.kubectl, dict.fromkeys(_LENT))


@pytest.mark.parametrize("recipe", CASES, ids=lambda recipe: recipe.file)
def test_a_converted_recipe_trains(
    played: dict[str, Future[list[Worker]]], recipe: Recipe, record_property: Callable[[str, object], None]
) -> None:
    workers = played[recipe.job].result()
    assert problems(recipe, workers) == []
    told = f"{workers[0].steps} steps, loss {workers[0].first:.2f} to {workers[0].last:.2f}"
    record_property("said", f"{recipe.file}: {recipe.nodes} nodes, {len(workers)} workers, {told}")
