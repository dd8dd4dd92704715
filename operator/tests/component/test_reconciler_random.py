"""Random jobs: events in any order. Invariants hold, and in the end the job recovers."""

import asyncio
import copy
from collections.abc import Coroutine
from datetime import datetime, timedelta
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from memory_cluster import Stored
from torchrun_operator.api.names import LABEL_NODE_INDEX
from torchrun_operator.cluster.port import ClusterError, Manifest
from world import World

MAX_RESTARTS = 3
NAMES = st.sampled_from(["digits-0", "digits-1", "digits-2", "digits-3", "digits-rdzv"])
UNLIMITED = 1000
INDEX = st.integers(min_value=0, max_value=4)


class Lives(RuleBasedStateMachine):
    """A job of 2:4 nodes, its operator, and everything that can happen to them."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.Runner()
        self.world = World(maxRestarts=MAX_RESTARTS, replicas=3)
        self.world.cluster.refuse = self._wanted
        self.quota = UNLIMITED
        self.restarts: dict[str, int] = {}
        self.ended: dict[str, Any] | None = None
        self.workers_failed = 0
        self.killed: list[str] = []
        """Deleted pods that trained, and whose agents the operator could hear."""
        self.deaf_since: datetime | None = None
        self._delete = self.world.cluster.delete_pod
        self.world.cluster.delete_pod = self._watched_delete  # type: ignore[method-assign]

    @initialize(trains=st.booleans())
    def the_job_is_new_or_trains(self, trains: bool) -> None:
        if trains:
            self._run(self.world.settle())

    def teardown(self) -> None:
        self._everything_allows_it()
        self._run(self.world.settle())
        self.nothing_forbidden()
        state, wanted = self.world.status["state"], self.world.job["spec"]["replicas"]
        assert state in ("Running", "Complete", "Failed")
        if state == "Running":
            assert self.world.indices() == list(range(wanted + self._spares()))
            assert self.world.status["membership"]["nodes"] == wanted
        self.loop.close()

    @rule(passes=st.integers(min_value=1, max_value=4), seconds=st.sampled_from([0, 1, 20]))
    def time_passes(self, passes: int, seconds: int) -> None:
        for _ in range(passes):
            self._run(self.world.reconcile())
            self.world.live()
            self.world.now += timedelta(seconds=seconds)

    @rule()
    def the_world_goes_on_without_the_operator(self) -> None:
        self.world.live()
        self.world.now += timedelta(seconds=30)

    @rule()
    def the_operator_is_restarted(self) -> None:
        self.world.cluster.lagging, self.deaf_since = None, None
        self.world.restart_operator()

    @rule(index=INDEX)
    def a_node_goes(self, index: int) -> None:
        if f"digits-{index}" in self.world.nodes:
            self.world.delete(f"digits-{index}")

    @rule(index=INDEX)
    def somebody_deletes_a_node(self, index: int) -> None:
        if f"digits-{index}" in self.world.nodes:
            self.world.cluster.delete_gracefully(self.world.nodes[f"digits-{index}"])

    @rule(index=INDEX, code=st.sampled_from([1, 3, 137, 143]))
    def a_node_fails(self, index: int, code: int) -> None:
        if self._runs(index):
            self.world.end(self.world.nodes[f"digits-{index}"], code)

    @rule(index=INDEX, reason=st.sampled_from(["", "OutOfcpu", "NodeAffinity", "DeadlineExceeded"]))
    def a_node_fails_before_it_runs(self, index: int, reason: str) -> None:
        pod = self.world.nodes.get(f"digits-{index}")
        if pod is not None and pod["status"]["phase"] in ("Pending", "Running"):
            self.world.reject(pod, reason, "Pod was rejected: for a reason")

    @rule(pods=st.integers(min_value=1, max_value=6))
    def a_quota_admits_fewer_pods(self, pods: int) -> None:
        self.quota = pods

    @rule()
    def the_quota_is_lifted(self) -> None:
        self.quota = UNLIMITED

    @rule(index=INDEX)
    def a_node_is_evicted(self, index: int) -> None:
        if self._runs(index):
            self.world.end(self.world.nodes[f"digits-{index}"], 137, reason="Evicted")
            self.world.nodes[f"digits-{index}"]["status"]["reason"] = "Evicted"

    @rule(names=st.sets(NAMES, min_size=1))
    def kubelets_fall_silent(self, names: set[str]) -> None:
        """The API server hears nothing of their Kubernetes nodes, but the processes on them continue."""
        for name in names & self.world.pods.keys():
            if machine := self.world.pods[name]["spec"].get("nodeName"):
                self.world.give_up(machine)

    @rule(names=st.sets(NAMES), passes=st.integers(min_value=1, max_value=9))
    def the_operator_restarts_and_hears_nothing_yet(self, names: set[str], passes: int) -> None:
        self.kubelets_fall_silent(names)
        self.the_operator_is_restarted()
        self._deafen()
        for _ in range(passes):
            self._run(self.world.reconcile())
            self.world.now += timedelta(seconds=1)
        self.the_operator_hears_the_hosts()

    @rule()
    def the_operator_is_cut_off_from_the_hosts(self) -> None:
        self._deafen()

    @rule()
    def the_operator_hears_the_hosts(self) -> None:
        self.world.links.deaf, self.deaf_since = False, None

    @rule(index=INDEX)
    def a_node_that_is_deleted_does_not_end(self, index: int) -> None:
        if self._runs(index):
            self.world.stuck.add(self.world.nodes[f"digits-{index}"]["metadata"]["uid"])
            self.somebody_deletes_a_node(index)

    @rule(name=NAMES)
    def a_machine_is_cut_off(self, name: str) -> None:
        if name in self.world.pods and self.world.pods[name]["spec"].get("nodeName"):
            self.world.cut_off(name)

    @rule()
    def the_api_server_gives_silent_machines_up(self) -> None:
        for machine in self.world.silent_machines:
            self.world.give_up(machine)

    @rule()
    def machines_are_heard_again(self) -> None:
        for machine in {pod["spec"].get("nodeName") for pod in self.world.pods.values()} - {None}:
            if ("Node", "", machine) in self.world.cluster.objects:
                self.world.heal(machine)

    @rule()
    def the_rendezvous_goes(self) -> None:
        if "digits-rdzv" in self.world.pods:
            self.world.delete("digits-rdzv")

    @precondition(lambda self: any(host.state.complete for host in self.world.hosts.values()))
    @rule()
    def workers_fail(self) -> None:
        self.workers_failed += 1
        self.world.fail_workers()

    @precondition(lambda self: any(host.state.complete for host in self.world.hosts.values()))
    @rule(frozen=st.sets(INDEX))
    def workers_hang(self, frozen: set[int]) -> None:
        self.workers_failed += 1
        self.world.hang(*(f"digits-{index}" for index in frozen if self._runs(index)))

    @rule(replicas=st.integers(min_value=2, max_value=4))
    def somebody_scales(self, replicas: int) -> None:
        self.world.cluster.edit(self.world.job, replicas=replicas)

    @rule(spares=st.integers(min_value=0, max_value=2))
    def somebody_wants_spares(self, spares: int) -> None:
        self.world.cluster.edit(self.world.job, elasticity={"spares": spares})

    @rule(suspend=st.booleans())
    def somebody_suspends_or_resumes(self, suspend: bool) -> None:
        self.world.cluster.edit(self.world.job, suspend=suspend)

    @rule(machines=st.integers(min_value=0, max_value=4))
    def machines_come_and_go(self, machines: int) -> None:
        self.world.machines = machines

    @rule()
    def the_watch_of_the_pods_stops(self) -> None:
        if self.world.cluster.lagging is None:
            self.world.cluster.lagging = copy.deepcopy(self.world.cluster.pods())

    @rule()
    def the_watch_of_the_pods_catches_up(self) -> None:
        self.world.cluster.lagging = None

    @rule(requests=st.integers(min_value=1, max_value=6), done=st.booleans())
    def the_api_server_fails_for_a_pass(self, requests: int, done: bool) -> None:
        first = len(self.world.cluster.log) + requests

        async def fault(number: int, what: str, after: bool) -> None:
            if number >= first and after is done:
                raise ClusterError(0, "TimeoutError", what)

        self.world.cluster.fault = fault
        self._run(self.world.reconcile())
        self.world.cluster.fault = None

    @precondition(lambda self: self.world.status.get("state") == "Running")
    @rule()
    def training_ends(self) -> None:
        self.world.succeed()

    @precondition(lambda self: self.world.status.get("state") == "Running")
    @rule()
    def training_ends_beside_sidecars(self) -> None:
        self.world.succeed()
        for pod in self.world.nodes.values():
            if pod["status"]["phase"] == "Succeeded":
                pod["status"]["phase"] = "Running"
                pod["status"]["containerStatuses"].append({"name": "proxy", "state": {"running": {}}})

    @invariant()
    def nothing_forbidden(self) -> None:
        status = self.world.status
        if not status:
            return
        restarts = status["restarts"]
        assert all(restarts[cause] >= count for cause, count in self.restarts.items()), "a counter has decreased"
        self.restarts = dict(restarts)
        node_pods = sum(count for name, count in self.world.cluster.most_pods.items() if name != "digits-rdzv")
        assert status["restartCount"] <= node_pods + self.workers_failed, "something was counted twice"
        assert restarts["code"] <= MAX_RESTARTS or status["state"] == "Failed"
        assert len(self.world.ended) == len(set(self.world.ended)), "a round was ended twice"
        ended = [c for c in status["conditions"] if c["type"] in ("Complete", "Failed")]
        if self.ended is not None:
            assert ended == [self.ended], "an end is the end"
        self.ended = ended[0] if ended else None

    @invariant()
    def nothing_healthy_is_killed(self) -> None:
        assert not self.killed

    async def _watched_delete(self, namespace: str, name: str, uid: str, grace_seconds: int | None) -> None:
        pod = self.world.pods.get(name)
        if pod is not None and pod["metadata"]["uid"] == uid and self._heard_training(pod) and not self._unwanted(pod):
            self.killed.append(name)
        await self._delete(namespace, name, uid, grace_seconds)

    def _heard_training(self, pod: Stored) -> bool:
        """Whether the pod trains or is the host of nodes that train, and the operator has heard that lately."""
        if self.deaf_since is not None and self.world.now - self.deaf_since > timedelta(seconds=15):
            return False
        address = pod["status"].get("podIP")
        alive = {a for a, node in self.world.agents_alive().items() if node["metadata"]["uid"] not in self.world.frozen}
        training = {
            at: alive.intersection(member.address for member in host.state.members)
            for at, host in self.world.hosts.items()
            if host.state.complete and any(pod["status"].get("podIP") == at for pod in self.world.pods.values())
        }
        return any(address == at or address in members for at, members in training.items() if members)

    def _unwanted(self, pod: Stored) -> bool:
        """Whether the job no longer wants the pod: somebody has scaled it down, suspended it, or it has ended."""
        spec, status = self.world.job["spec"], self.world.status
        if spec.get("suspend") or status.get("state") in ("Complete", "Failed"):
            return True
        finished = any(node["status"]["phase"] == "Succeeded" for node in self.world.nodes.values())
        index = pod["metadata"]["labels"].get(LABEL_NODE_INDEX)
        return finished or (index is not None and int(index) >= spec["replicas"] + self._spares())

    def _deafen(self) -> None:
        self.world.links.deaf = True
        if self.deaf_since is None:
            self.deaf_since = self.world.now

    def _wanted(self, manifest: Manifest) -> str:
        index = manifest["metadata"]["labels"].get(LABEL_NODE_INDEX)
        spec = self.world.job["spec"]
        most = spec["replicas"] + self._spares()
        assert index is None or (int(index) < most and not spec.get("suspend")), "a pod that the job does not want"
        return "exceeded quota" if manifest["kind"] == "Pod" and len(self.world.pods) >= self.quota else ""

    def _spares(self) -> int:
        spares: int = self.world.job["spec"].get("elasticity", {}).get("spares", 0)
        return spares

    def _runs(self, index: int) -> bool:
        pod = self.world.nodes.get(f"digits-{index}")
        return pod is not None and pod["status"]["phase"] == "Running"

    def _everything_allows_it(self) -> None:
        self.world.cluster.lagging = None
        self.world.machines = 10
        self.world.stuck.clear()
        self.quota = UNLIMITED
        self.the_operator_hears_the_hosts()
        self.machines_are_heard_again()
        self.world.cluster.edit(self.world.job, suspend=False)

    def _run(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        self.loop.run(coroutine)


TestLives = Lives.TestCase
TestLives.settings = settings(
    max_examples=40,
    stateful_step_count=30,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
