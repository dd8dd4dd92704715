"""What the state document and the metrics say of a decision."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from torchrun_rendezvous.documents import time_of
from torchrun_rendezvous.eviction import REASONS
from torchrun_rendezvous.liveness import astray, silent
from torchrun_rendezvous.memory import Memory
from torchrun_rendezvous.protocol import Member, RendezvousState, RoundsEnded, Target, Unrequested
from torchrun_rendezvous.view import View, addresses


def described(state: RendezvousState, view: View, memory: Memory, target: Target | None) -> RendezvousState:
    """Return the state with everything that the store and the decisions determine."""
    running = memory.running
    leavers = frozenset(target.leavers if target else ())
    still = running.still if running else frozenset()
    without = silent(memory)
    members = sorted((running.members[node], node.address) for node in still) if running else []
    unseen = view.joined() | astray(view, memory, without)
    waiting = {node.address for node in unseen - still} | set(memory.aside)
    last = memory.last_unrequested
    complete = running is not None and not running.kicked and len(still) == len(running.members)
    return replace(
        state,
        round=running.round if running else view.round,
        complete=complete,
        world_size=running.world if running is not None and complete else None,
        closed=view.closed,
        finished=view.finished,
        members=tuple(Member(address, rank) for rank, address in members),
        waiting=tuple(sorted(waiting - leavers)),
        silent=tuple(address for address in addresses(without) if address not in leavers),
        missing=memory.missing,
        unfinished=running.unfinished if running else (),
        rounds_ended=RoundsEnded(memory.requested, memory.unrequested),
        last_unrequested=Unrequested(last[0], last[1], time_of(last[2])) if last else None,
        completed_at=time_of(memory.completed_at) if memory.completed_at is not None else None,
    )


def metrics(
    state: RendezvousState, memory: Memory, *, without_step: float, operator_silence: float, restored: int
) -> str:
    """Return the metrics in Prometheus' text format. Times are seconds."""
    members = len(memory.running.still) if memory.running else 0
    lines: list[str] = []
    for name, kind, text, value in (
        ("rounds_total", "counter", "Rounds completed.", memory.rounds),
        ("members", "gauge", "Members of the running round.", members),
        ("waiting", "gauge", "Nodes that wait for a round.", len(state.waiting)),
        ("operator_silence_seconds", "gauge", "Seconds since the last request of the operator.", operator_silence),
        ("rounds_alone_total", "counter", "Rounds completed while the operator was away.", memory.rounds_alone),
        ("reopened_total", "counter", "Times an agent that failed closed the rendezvous.", memory.reopened),
        ("restored_states_total", "counter", "Times the store held something other than a state.", restored),
        ("closed", "gauge", "1 once an agent closed the rendezvous.", int(state.closed)),
        ("last_round_seconds", "gauge", "How long the last round took to form.", memory.formation_seconds or 0.0),
        ("seconds_without_step", "gauge", "Seconds since the running round reported a new step.", without_step),
    ):
        lines += [*_head(name, kind, text), f"torchrun_rendezvous_{name} {value}"]
    ended = {"true": memory.requested, "false": memory.unrequested}
    lines += _labelled("rounds_ended_total", "Rounds ended, by whether that was requested.", "requested", ended)
    evictions = {reason: memory.evictions.get(reason, 0) for reason in REASONS}
    lines += _labelled("evictions_total", "Nodes dropped from the rendezvous, by reason.", "reason", evictions)
    return "\n".join(lines) + "\n"


def _head(name: str, kind: str, text: str) -> Iterator[str]:
    yield f"# HELP torchrun_rendezvous_{name} {text}"
    yield f"# TYPE torchrun_rendezvous_{name} {kind}"


def _labelled(name: str, text: str, label: str, values: dict[str, int]) -> Iterator[str]:
    yield from _head(name, "counter", text)
    for value, count in values.items():
        yield f'torchrun_rendezvous_{name}{{{label}="{value}"}} {count}'
