"""A job that changes its rendezvous backend while it is suspended."""

from world import World


def owned(world: World) -> set[tuple[str, str]]:
    """Return kind and name of what the job owns beside its pods."""
    return {(kind, name) for kind, _, name in world.cluster.objects if kind not in ("Pod", "Node", "TorchrunJob")}


ALWAYS = {("Service", "digits"), ("NetworkPolicy", "digits-nodes")}
OF_STATIC = {("ConfigMap", "digits-hosts")}
OF_ELASTIC = {("Service", "digits-rdzv"), ("ConfigMap", "digits-rdzv"), ("NetworkPolicy", "digits-rdzv")}


async def test_another_backend_removes_what_the_last_one_needed() -> None:
    world = World(nnodes=3, replicas=3, rendezvous={"backend": "static"})
    await world.settle()
    for backend, needs in (("c10d", OF_ELASTIC), ("static", OF_STATIC), ("c10d", OF_ELASTIC)):
        world.cluster.edit(world.job, suspend=True)
        await world.settle()
        world.cluster.edit(world.job, rendezvous={"backend": backend})
        await world.settle()
        world.cluster.edit(world.job, suspend=False)
        await world.settle()
        assert (world.status["state"], owned(world)) == ("Running", ALWAYS | needs)
        assert ("digits-rdzv" in world.pods) is (backend == "c10d")
