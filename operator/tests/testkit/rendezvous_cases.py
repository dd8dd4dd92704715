"""Tables of the decisions of the rendezvous host: the state in the store, the target, the memory, and the result."""

from dataclasses import dataclass, field, replace

from torchrun_rendezvous.eviction import SIGHT_SECONDS
from torchrun_rendezvous.memory import UNAWARE, Decision, Memory, Running, Senses
from torchrun_rendezvous.protocol import Target
from torchrun_rendezvous.rounds import decide
from torchrun_rendezvous.view import Node, View

A, B, C, D = (Node(f"10.0.0.{i}", 1, 0) for i in range(1, 5))
NOW = 1000.0
ABC = {A: 0, B: 1, C: 2}


def beats(*nodes: Node, at: float = NOW) -> dict[Node, float]:
    """Return the same heartbeat of each node."""
    return dict.fromkeys(nodes, at)


def target(size: int, minimum: int = 2, *leavers: Node, close: bool = False) -> Target:
    """Return a target of that many nodes."""
    return Target(1, size, minimum, 5.0, tuple(n.address for n in leavers), close)


def running(*nodes: Node, still: frozenset[Node] | None = None, number: int = 4) -> Running:
    """Return a complete round whose members, in this order, sent their last heartbeats ten seconds ago."""
    members = {n: rank for rank, n in enumerate(nodes)}
    return Running(number, members, frozenset(nodes) if still is None else still, beats(*nodes, at=NOW - 10))


def remembered(run: Running | None, **changes: object) -> Memory:
    """Return the memory of a round."""
    return replace(Memory(running=run), **changes)  # type: ignore[arg-type]


FORMED = View(round=4, complete=True, participants=ABC, heartbeats=beats(A, B, C, at=NOW - 10))
SETTLED = View(round=5, heartbeats=beats(A, B, C))
KICKED = replace(running(A, B, C, still=frozenset({A, B})), kicked=True, requested=True)


@dataclass(frozen=True)
class Case:
    """A row: state, target, memory and senses, and the expected decision."""

    view: View
    target: Target | None
    memory: Memory
    expected: View
    running: Running | None = None
    lines: tuple[str, ...] = ()
    repair: int | None = None
    hurry: bool = False
    also: dict[str, object] = field(default_factory=dict)
    senses: Senses = UNAWARE


def open_round(*nodes: Node, number: int = 5, **changes: object) -> View:
    """Return an open round with these participants and current heartbeats."""
    view = View(round=number, participants=dict.fromkeys(nodes, 0), heartbeats=beats(*nodes))
    return replace(view, **changes)  # type: ignore[arg-type]


def formed(*nodes: Node, number: int = 5) -> View:
    """Return a round with these members that has just completed."""
    return View(round=number, complete=True, participants={n: i for i, n in enumerate(nodes)}, heartbeats=beats(*nodes))


def begun(*nodes: Node, number: int = 5) -> Running:
    """Return the memory of that round."""
    return replace(running(*nodes, number=number), beats=beats(*nodes))


def assert_decides(case: Case) -> None:
    """Check a row."""
    result = decide(case.view, case.target, NOW, case.memory, case.senses)
    expected_running = case.running
    if expected_running is not None and case.repair is not None:
        expected_running = replace(expected_running, repaired=True)
    assert (result.view, result.memory.running) == (case.expected, expected_running)
    assert tuple(line["event"] for line in result.lines) == case.lines
    # A node that joins before all members of a new round have seen the round must be hidden at once.
    completed = result.memory.completed_at
    hurry = result.view.complete and completed is not None and NOW - completed < 2 * SIGHT_SECONDS
    assert (result.repair, result.hurry) == (case.repair, case.hurry or hurry)
    assert {name: getattr(result.memory, name) for name in case.also} == case.also


def assert_settles(case: Case) -> None:
    """Check that a second decision changes nothing."""
    first = decide(case.view, case.target, NOW, case.memory, case.senses)
    second = decide(first.view, case.target, NOW, first.memory, case.senses)
    assert second == Decision(first.view, second.memory, (), None, first.hurry)
    third = decide(second.view, case.target, NOW, second.memory, case.senses)
    assert third == second
