"""A world in virtual time that shows how many rounds a change costs.

Its rendezvous hosts decide like the real one, and its agents act like torchrun's.
"""

from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

from fake_links import Host
from memory_cluster import Stored
from torchrun_operator.api.names import LABEL_ROLE, ROLE_RENDEZVOUS
from torchrun_rendezvous.memory import Memory
from torchrun_rendezvous.protocol import RendezvousState
from torchrun_rendezvous.report import described
from torchrun_rendezvous.rounds import decide
from torchrun_rendezvous.view import Node, View
from world import World

TICK = 0.1
IMPORT_SECONDS = 3.0
"""From the start of a node's container to the first request of its agent."""
STOP_SECONDS = 1.0
"""From an agent's decision to leave a round until it leaves: its workers must end."""
PULL_SECONDS = 0.5
GRACE_SECONDS = 2.0
HEARTBEAT_SECONDS = 5.0


@dataclass
class Agent:
    """torchrun's agent in one pod. It looks for a round, or its workers run in one."""

    node: Node
    began: float
    round: int | None = None
    leaves_at: float | None = None
    beat_at: float = 0.0
    acts_at: float = 0.0


@dataclass
class Store:
    """The inputs of the real host's decision."""

    view: View = field(default_factory=View)
    memory: Memory = field(default_factory=Memory)


class RoundsWorld(World):
    """One job. `pass_time` runs it with an operator that makes a pass twice a second."""

    def __init__(self, **spec: Any) -> None:
        super().__init__(**spec)
        self.agents: dict[str, Agent] = {}
        """By the uid of their pods."""
        self.store = Store()
        self.processes = 0
        self.started: dict[str, float] = {}
        self.ending: dict[str, float] = {}
        self.unplaced: set[str] = set()
        """Names of node pods that cannot be scheduled."""

    @property
    def seconds(self) -> float:
        """The time of the host's clock."""
        return self.now.timestamp()

    @property
    def rounds(self) -> int:
        """The number of completed rounds."""
        return self.store.memory.rounds

    @property
    def trains(self) -> list[str]:
        """Names of the pods whose workers run in the current round."""
        view, names = self.store.view, {pod["metadata"]["uid"]: name for name, pod in self.nodes.items()}
        running = self.store.memory.running
        if running is None or running.kicked or len(running.still) < len(running.members):
            return []
        assert view.round >= running.round
        return sorted(names[uid] for uid, agent in self.agents.items() if agent.round == running.round)

    async def pass_time(self, seconds: float) -> None:
        """Let that much time pass."""
        for tick in range(round(seconds / TICK)):
            self.now += timedelta(seconds=TICK)
            self.live()
            if tick % 5 == 0:
                await self.reconcile()

    def live(self) -> None:
        """Let kubelets, agents and the host do one step."""
        for name, pod in self.pods.items():
            self._kubelet(name, pod)
        self._hosts_come_and_go()
        for pod in self.nodes.values():
            self._agent(pod)
        self._peers()
        for known in self.hosts.values():
            self._host(known)

    def _kubelet(self, name: str, pod: Stored) -> None:
        uid = pod["metadata"]["uid"]
        if "deletionTimestamp" in pod["metadata"]:
            if self.seconds >= self.ending.setdefault(uid, self.seconds + GRACE_SECONDS):
                self.cluster.remove(pod)
        elif pod["status"]["phase"] == "Pending":
            if uid not in self.started:
                pod["metadata"]["creationTimestamp"] = self.now.strftime("%Y-%m-%dT%H:%M:%SZ")
            placed = pod["metadata"]["labels"].get(LABEL_ROLE) == ROLE_RENDEZVOUS or name not in self.unplaced
            due = self.started.setdefault(uid, self.seconds + PULL_SECONDS)
            if placed and self.seconds >= due:
                self.run(pod)
            elif not placed and not pod["status"].get("conditions"):
                unplaced = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "no room"}
                pod["status"]["conditions"] = [unplaced]

    def _hosts_come_and_go(self) -> None:
        host_pod = self.pods.get("digits-rdzv")
        if host_pod is not None and host_pod["status"]["phase"] == "Running" and not self.hosts:
            self.hosts[host_pod["status"]["podIP"]] = Host("aa", RendezvousState("aa"))

    def _agent(self, pod: Stored) -> None:
        uid = pod["metadata"]["uid"]
        if pod["status"]["phase"] != "Running" or "deletionTimestamp" in pod["metadata"]:
            self.agents.pop(uid, None)
            return
        if uid not in self.agents:
            self.processes += 1
            node = Node(pod["status"]["podIP"], self.processes, 0)
            self.agents[uid] = Agent(node, self.seconds + IMPORT_SECONDS)
        agent, view = self.agents[uid], self.store.view
        if self.seconds < max(agent.began, agent.acts_at) or not self.hosts:
            return
        if agent.leaves_at is not None:
            if self.seconds >= agent.leaves_at:
                self._leaves(agent)
            return
        agent.acts_at = self.seconds + 1.0
        if agent.round is None:
            self._looks(agent)
        elif view.waiting:
            agent.leaves_at = self.seconds + STOP_SECONDS
        elif self.seconds >= agent.beat_at:
            self._beats(agent)

    def _looks(self, agent: Agent) -> None:
        view, node = self.store.view, agent.node
        if view.complete and node in view.participants:
            agent.round = view.round
        elif view.complete:
            self.store.view = replace(view, waiting=view.waiting | {node})
        else:
            joined = {**view.participants, node: view.participants.get(node, 0)}
            self.store.view = replace(view, participants=joined, waiting=view.waiting - {node})
        self._beats(agent)

    def _beats(self, agent: Agent) -> None:
        agent.beat_at = self.seconds + HEARTBEAT_SECONDS
        view = self.store.view
        self.store.view = replace(view, heartbeats={**view.heartbeats, agent.node: self.seconds})

    def _leaves(self, agent: Agent) -> None:
        view = self.store.view.without([agent.node])
        if view.complete and not view.participants:
            view = replace(view, complete=False, round=view.round + 1)
        self.store.view = view
        agent.round, agent.leaves_at = None, None

    def _peers(self) -> None:
        """Workers fail if another one is gone."""
        running = self.store.memory.running
        if running is None:
            return
        there = {agent.node for agent in self.agents.values() if agent.round == running.round}
        seen = {agent.node for agent in self.agents.values()}
        if any(node not in seen for node in running.members):
            for agent in self.agents.values():
                if agent.node in there and agent.leaves_at is None:
                    agent.leaves_at = self.seconds + STOP_SECONDS

    def _host(self, known: Host) -> None:
        wanted = known.target
        done = decide(self.store.view, wanted, self.seconds, self.store.memory)
        self.store.view, self.store.memory = done.view, done.memory
        known.state = described(RendezvousState(known.instance, version=1), done.view, done.memory, wanted)
