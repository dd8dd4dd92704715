"""Agents that act like torch's, in any order, with a host that decides: what must never happen, and what must."""

from dataclasses import dataclass, field, replace

from hypothesis import example, given, settings
from hypothesis import strategies as st

from torchrun_rendezvous.eviction import SIGHT_SECONDS
from torchrun_rendezvous.memory import Memory, Senses
from torchrun_rendezvous.protocol import Target
from torchrun_rendezvous.rounds import decide
from torchrun_rendezvous.view import KICK, Node, View

ADDRESSES = 5
MINIMUM = 2


@dataclass
class Agent:
    """torch's agent. It looks for a round (None), or runs workers in one."""

    node: Node
    round: int | None = None
    frozen: bool = False


@dataclass
class Simulation:
    """The store, the agents by address, the host's memory, and the members of each round.

    A round loses members that leave by themselves.
    """

    view: View = field(default_factory=View)
    memory: Memory = field(default_factory=Memory)
    target: Target | None = None
    now: float = 1000.0
    agents: dict[int, Agent] = field(default_factory=dict)
    formed: dict[int, dict[Node, int]] = field(default_factory=dict)
    processes: int = 0
    lost: set[int] = field(default_factory=set)
    mute: dict[int, float] = field(default_factory=dict)
    """When a node's kernel acknowledged data for the last time."""
    away: bool = False
    unanswered: bool = False
    """A member has left, and the host has not decided since."""

    def start(self, index: int) -> None:
        """A new process at the address. A former one is gone without a message."""
        self.processes += 1
        self.lost.discard(index)
        self.mute.pop(index, None)
        self.agents[index] = Agent(Node(f"10.0.0.{index}", self.processes, 0))

    def die(self, index: int) -> None:
        """Its processes end, so the kernel closes their connections."""
        self.agents.pop(index, None)

    def lose(self, index: int) -> None:
        """Its Kubernetes node is gone, and no connection is closed."""
        if self.agents.pop(index, None) is not None:
            self.lost.add(index)
            self.mute.setdefault(index, self.now)

    def freeze(self, index: int) -> None:
        """It does nothing for a while."""
        if index in self.agents:
            self.agents[index].frozen = True

    def cut(self, index: int) -> None:
        """Nothing arrives from the agent or its kernel."""
        if index in self.agents:
            self.agents[index].frozen = True
            self.mute.setdefault(index, self.now)

    def thaw(self, index: int) -> None:
        if index in self.agents:
            self.agents[index].frozen = False
            self.mute.pop(index, None)

    def awake(self, index: int) -> Agent | None:
        agent = self.agents.get(index)
        return None if agent is None or agent.frozen else agent

    def sync(self, index: int) -> None:
        """What an agent does once per second while it looks for a round (torch's _RendezvousJoinOp)."""
        agent, view = self.awake(index), self.view
        if agent is None or agent.round is not None or view.closed:
            return
        node = agent.node
        if view.complete and node in view.participants:
            self.check_seen()
            agent.round = view.round
            return
        if view.complete:
            view = replace(view, waiting=view.waiting | {node}, redundant=view.redundant - {node})
        else:
            joined = {**view.participants, node: view.participants.get(node, 0)}
            view = replace(view, participants=joined, waiting=view.waiting - {node})
        self.view = replace(view, heartbeats={**view.heartbeats, node: self.now})

    def poll(self, index: int) -> None:
        """What an agent does once per second while its workers run: a waiting node makes it leave."""
        agent = self.awake(index)
        if agent is not None and agent.round is not None and self.view.waiting:
            self.leave(index)

    def leave(self, index: int) -> None:
        """The workers were stopped or failed (torch's _RendezvousExitOp)."""
        agent, view = self.awake(index), self.view
        if agent is None or agent.round is None:
            return
        agent.round = None
        if agent.node in view.participants:
            self.unanswered = True
            view = view.without([agent.node])
            if view.complete and not view.participants:
                view = replace(view, complete=False, round=view.round + 1)
            self.view = view

    def beat(self, index: int) -> None:
        """What an agent does every 2 s. While it looks for a round, it reads before it writes."""
        agent = self.awake(index)
        if agent is None or (agent.round is None and self.view.complete and agent.node in self.view.participants):
            return
        if agent.node in self.view.heartbeats:
            self.view = replace(self.view, heartbeats={**self.view.heartbeats, agent.node: self.now})

    def tick(self) -> None:
        self.now += 0.1
        before = self.memory.rounds
        connected = {*self.agents, *self.lost}
        peers = frozenset(f"10.0.0.{i}" for i in connected)
        unanswered = {f"10.0.0.{i}": self.now - self.mute.get(i, self.now) for i in connected}
        senses = Senses(peers, unanswered, away=self.away)
        self.unanswered = False
        result = decide(self.view, self.target, self.now, self.memory, senses)
        self.view, self.memory = result.view, result.memory
        if self.memory.rounds > before:
            self.check_completed()

    def check_completed(self) -> None:
        target, members = self.target, self.view.participants
        assert target is not None
        assert self.view.complete
        assert target.minimum <= len(members) <= target.size
        assert list(members.values()) == list(range(len(members)))
        assert list(members) == sorted(members)
        assert len({n.address for n in members}) == len(members)
        assert set(target.leavers).isdisjoint(n.address for n in members)
        assert KICK not in members
        assert all(n in self.view.heartbeats for n in members)
        assert all(r < self.view.round for r in self.formed)
        self.formed[self.view.round] = dict(members)

    def check_seen(self) -> None:
        """A member sees the same round as the others: its own rank, and the size."""
        seen, formed = self.view.participants, self.formed[self.view.round]
        assert {node: rank for node, rank in seen.items() if node.address != KICK.address}.items() <= formed.items()
        completed = self.memory.completed_at
        assert completed is not None
        if self.now - completed < SIGHT_SECONDS and not self.unanswered:
            assert sorted(seen.values()) == sorted(formed.values())

    def live(self, seconds: int) -> None:
        """Let the running agents act."""
        for second in range(seconds):
            for index in list(self.agents):
                self.sync(index)
                self.poll(index)
                if second % 2 == 0:
                    self.beat(index)
                self.tick()
            for _ in range(10):
                self.tick()

    def training(self) -> set[int]:
        """Return the addresses of the members of a round that has all of its members."""
        run = self.memory.running
        if run is None or run.kicked or self.view.waiting:
            return set()
        there = {i for i, a in self.agents.items() if a.round == run.round and a.node in run.members}
        return there if len(there) == len(run.members) else set()


INDEX = st.integers(0, ADDRESSES - 1)
EVENTS = st.one_of(
    st.tuples(
        st.sampled_from(["start", "die", "lose", "freeze", "cut", "thaw", "sync", "sync", "poll", "leave", "beat"]),
        INDEX,
    ),
    st.tuples(st.just("tick"), st.integers(1, 3)),
    st.tuples(st.just("wait"), st.integers(1, 6)),
    st.tuples(st.just("want"), st.tuples(st.integers(0, ADDRESSES), st.frozensets(INDEX, max_size=2))),
)


def happen(simulation: Simulation, event: tuple[str, object]) -> None:
    kind, argument = event
    if kind == "want":
        assert isinstance(argument, tuple)
        size, leavers = argument
        simulation.target = Target(1, size, MINIMUM, 2.0, tuple(f"10.0.0.{i}" for i in leavers))
    elif kind == "wait":
        assert isinstance(argument, int)
        simulation.now += argument
    elif kind == "tick":
        assert isinstance(argument, int)
        for _ in range(argument):
            simulation.tick()
    else:
        getattr(simulation, kind)(argument)


_THREE_FORM: list[tuple[str, object]] = [
    ("want", (3, frozenset())),
    *((what, index) for index in range(3) for what in ("start", "sync")),
    ("tick", 1),
]


@settings(max_examples=400, deadline=None)
@given(st.lists(EVENTS, max_size=60), st.integers(MINIMUM, ADDRESSES))
# A process that is gone becomes a member, and the next one at its address joins before the others have seen that.
@example([("start", 2), ("sync", 2), ("start", 2)], 3)
# The workers of a member fail at once, and another member looks for the round after that.
@example([*_THREE_FORM, ("sync", 0), ("leave", 0), ("tick", 1), ("sync", 1), ("sync", 0), ("leave", 1), ("tick", 1)], 3)
def test_whatever_happens_rounds_are_right_and_training_comes_back(
    events: list[tuple[str, object]], alive: int
) -> None:
    simulation = Simulation()
    for event in events:
        happen(simulation, event)
        assert KICK not in simulation.view.participants
        real = {node for node in simulation.view.participants if node.address != KICK.address}
        assert real <= set(simulation.view.heartbeats)

    # Then the operator reaches its goal: some live pods, the others gone.
    for index in range(ADDRESSES):
        if index >= alive:
            simulation.die(index)
        elif index not in simulation.agents:
            simulation.start(index)
        simulation.thaw(index)
    gone = tuple(f"10.0.0.{i}" for i in range(alive, ADDRESSES))
    simulation.target = Target(2, alive, MINIMUM, 2.0, gone)
    simulation.live(30)
    assert simulation.training() == set(range(alive))


@settings(max_examples=50, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.tuples(st.sampled_from(["start", "die", "lose", "freeze", "cut", "thaw", "leave"]), INDEX),
            st.tuples(st.just("live"), st.integers(1, 12)),
        ),
        max_size=12,
    ),
    st.integers(MINIMUM, ADDRESSES),
    st.sets(INDEX, min_size=1),
    st.sets(INDEX),
)
def test_without_an_operator_training_comes_back_if_enough_are_left(
    events: list[tuple[str, object]], size: int, alive: set[int], lost: set[int]
) -> None:
    """Nodes end, are lost or freeze. The remaining ones train, as many as the last target wants."""
    simulation = Simulation(target=Target(1, size, MINIMUM, 2.0, ()), away=True)
    for index in range(ADDRESSES):
        simulation.start(index)
    simulation.live(5)
    assert len(simulation.training()) == size
    for event in events:
        happen(simulation, event)
    for index in range(ADDRESSES):
        if index in alive:
            if index not in simulation.agents:
                simulation.start(index)
            simulation.thaw(index)
        elif index in lost:
            simulation.lose(index)
        else:
            simulation.die(index)
    simulation.live(45)
    training = simulation.training()
    assert training <= alive
    assert len(training) == (min(size, len(alive)) if len(alive) >= MINIMUM else 0)


@settings(max_examples=50, deadline=None)
@given(st.permutations(range(ADDRESSES)), st.integers(MINIMUM, ADDRESSES))
def test_surplus_agents_do_not_keep_the_others_from_training(order: list[int], size: int) -> None:
    simulation = Simulation(target=Target(1, size, MINIMUM, 2.0, ()))
    for index in order:
        simulation.start(index)
    for second in range(20):
        for index in order:
            simulation.sync(index)
            simulation.tick()  # the host decides often enough, between one agent's write and the next one's read
            simulation.poll(index)
            if second % 2 == 0:
                simulation.beat(index)
    assert len(simulation.training()) == size
    assert simulation.memory.rounds == 1


@settings(max_examples=50, deadline=None)
@given(st.permutations(range(ADDRESSES)), st.integers(MINIMUM, ADDRESSES - 1), st.integers(0, ADDRESSES))
def test_a_spare_takes_the_place_of_a_lost_member_and_all_others_keep_theirs(
    order: list[int], size: int, choice: int
) -> None:
    simulation = Simulation(target=Target(1, size, MINIMUM, 2.0, ()))
    for index in order:
        simulation.start(index)

    def live(seconds: int) -> None:
        for second in range(seconds):
            for index in order:
                simulation.sync(index)
                simulation.tick()
                simulation.poll(index)
                if second % 5 == 0:
                    simulation.beat(index)

    live(20)
    before = simulation.training()
    lost = sorted(before)[choice % size]
    simulation.die(lost)
    simulation.target = Target(2, size, MINIMUM, 2.0, (f"10.0.0.{lost}",))
    live(20)
    assert simulation.memory.rounds == 2
    assert len(simulation.training()) == size
    assert before - {lost} < simulation.training()
