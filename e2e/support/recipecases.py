"""The recipes of other systems that tests convert and train, and what must come of each."""

from support.recipes import Recipe

_SMALL = ("image=IMAGE", "cpu=100m", "memory=1Gi", "steps=30")
CASES = (
    Recipe(
        "osmo/elastic.yaml",
        "elastic",
        nodes=3,
        workers=1,
        settings=(
            *(*_SMALL, "name=elastic", "max_nodes=3", "min_nodes=2", "n_gpus_per_node=1", "storage=100Mi"),
            "storage_url=pvc://store/results",
        ),
        tags=frozenset({"digits-elastic-1.10"}),
        uploads={"results/elastic": frozenset({"models/snapshot.pth"})},
    ),
    Recipe(
        "osmo/multi_node.yaml",
        "multi-node",
        nodes=2,
        workers=2,
        settings=(*_SMALL, "n_nodes=2", "n_gpus=2"),
        tags=frozenset({"0-key-eu", "1-key-eu"}),
    ),
    Recipe(
        "osmo/train_dist.yaml",
        "train-dist",
        nodes=2,
        workers=2,
        settings=(*_SMALL, "storage_url=pvc://store/results"),
        uploads={"results/train-dist": frozenset({"first.pth", "sums.txt"})},
    ),
    Recipe(
        "osmo/launcher.yaml",
        "launcher",
        nodes=3,
        workers=1,
        settings=(*_SMALL, "nodes=3", "gpus=1", "master_memory=2Gi"),
        tags=frozenset({"master", "worker"}),
    ),
    Recipe(
        "osmo/reschedule.yaml",
        "reschedule",
        nodes=2,
        workers=2,
        settings=(
            *(*_SMALL, "workers=1", "gpus=2", "name=reschedule"),
            # A script starts torchrun: its agent and workers load torch each.
            *("location=pvc://store/results/reschedule", "data=pvc://store/digits", "memory=2Gi"),
        ),
        uploads={"results/reschedule/snapshots": frozenset({"snapshot.pth"})},
    ),
    Recipe("pytorchjob/mnist.yaml", "mnist", nodes=3, workers=1),
    Recipe("pytorchjob/elastic.yaml", "imagenet", nodes=2, workers=2, tags=frozenset({"{{run}}"})),
    Recipe(
        "pytorchjob/shell.yaml", "llm", nodes=2, workers=2, suspended=True, results=("results/llm/weights.pth",)
    ),
    Recipe(
        "pytorchjob/lead.yaml", "prepare", nodes=2, workers=2, tags=frozenset({"prepared=master", "worker"})
    ),
    Recipe("pytorchjob/variables.yaml", "variables", nodes=3, workers=1),
    Recipe("trainjob/script.yaml", "sdk", nodes=2, workers=2),
    Recipe(
        "trainjob/runtime.yaml",
        "tuned",
        nodes=3,
        workers=1,
        tags=frozenset({"tuned"}),
        results=("results/tuned/weights.pth",),
    ),
)  # fmt: skip
