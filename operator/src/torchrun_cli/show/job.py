"""The screen of one job: what it does, how far it is, its nodes and conditions, and its last failure."""

from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Any, NamedTuple

from torchrun_cli.show.style import PLAIN, Paint, cleaned
from torchrun_cli.show.table import table, wrapped
from torchrun_cli.show.times import age, duration, moment
from torchrun_operator.api.names import other_manager

_LABEL = 13
_BAR = 24
_MOST_NODES = 50
_NORMAL = {"Accepted": "True", "Scheduled": "True", "Running": "True", "Complete": "True"}
"""The status that is good news; of all other conditions it is False."""


class Pace(NamedTuple):
    """How fast a job trains, as a caller saw it: steps in a number of seconds."""

    steps: int
    seconds: float


def job_screen(
    job: dict[str, Any], now: datetime, *, pace: Pace | None = None, paint: Paint = PLAIN, width: int | None = None
) -> list[str]:
    """Return the lines of the screen. ``pace`` is what a caller has observed; without it, the average counts."""
    job = cleaned(job)
    status = job.get("status") or {}
    facts = [(label, text) for label, text in _facts(job, status, now, pace, paint) if text]
    room = width - _LABEL if width is not None else None
    lines = list(_title(job, status, paint, width))
    for label, text in facts:
        first, *more = wrapped(text, room)
        lines += [f"{label + ':':<{_LABEL}}{first}", *(" " * _LABEL + line for line in more)]
    for block in (
        _nodes(job, status, now, paint, width),
        _conditions(status, now, paint, width),
        failure_lines(status, now, paint, width),
    ):
        if block:
            lines += ["", *block]
    return lines


def _title(job: dict[str, Any], status: dict[str, Any], paint: Paint, width: int | None) -> Iterator[str]:
    metadata = job["metadata"]
    state = "Terminating" if metadata.get("deletionTimestamp") else status.get("state") or "Pending"
    yield f"{paint.bold(metadata['name'])}   {paint.state(state)}"
    message = status.get("message") or ("" if status else _unseen(job))
    if message:
        yield from (f"  {line}" for line in wrapped(message, width - 2 if width is not None else None))
    seen, current = status.get("observedGeneration"), metadata.get("generation")
    if seen is not None and current is not None and seen < current:
        yield paint.warn(f"  the operator has not seen the last change yet (generation {current}, seen {seen})")


def _unseen(job: dict[str, Any]) -> str:
    manager = other_manager(job.get("spec") or {})
    if manager:
        return f"{manager} manages the job, as spec.managedBy says, and has not written its status yet"
    return "the operator has not seen the job yet"


def _facts(
    job: dict[str, Any], status: dict[str, Any], now: datetime, pace: Pace | None, paint: Paint
) -> Iterator[tuple[str, str]]:
    yield "Namespace", job["metadata"]["namespace"]
    yield "Time", _time(job, status, now)
    yield "Progress", _progress(status, pace, paint)
    yield "Training", _figures(status.get("progress") or {}, now)
    yield "Goodput", goodput_words(status, now)
    yield "Nodes", _membership(job, status)
    yield "Last change", _change((status.get("membership") or {}).get("lastChange") or {}, now)
    yield "Restarts", _restarts(job, status, paint)
    yield "Straggler", _straggler(status.get("straggler") or {}, paint)
    yield "Refused", (status.get("refusal") or {}).get("message") or ""


def _time(job: dict[str, Any], status: dict[str, Any], now: datetime) -> str:
    text = f"created {age(job['metadata'].get('creationTimestamp'), now)} ago"
    start, end = moment(status.get("startTime")), moment(status.get("completionTime"))
    if start is not None:
        text += f", started {duration((now - start).total_seconds())} ago"
    if end is not None:
        text += f", ended {duration((now - end).total_seconds())} ago"
        text += f" after {duration((end - start).total_seconds())}" if start is not None else ""
    return text


def _progress(status: dict[str, Any], pace: Pace | None, paint: Paint) -> str:
    progress = status.get("progress") or {}
    step, total = progress.get("step"), progress.get("totalSteps")
    if step is None:
        return ""
    if not total:
        return f"{step} steps"
    done = min(1.0, step / total)
    full = int(done * _BAR)
    bar = paint.good("█" * full) + paint.dim("░" * (_BAR - full))
    text = f"{bar} {int(done * 100)} %, {step} of {total} steps"
    left = seconds_left(status, pace)
    return text + (f", about {duration(left)} left" if left is not None else "")


def seconds_left(status: dict[str, Any], pace: Pace | None = None) -> float | None:
    """Return the time to the last step, at the observed pace or at the average one. None: it is unknown.

    The average is that of the training since the first step. Only for an operator that does not measure it, the
    average includes all pauses since the start of the job.
    """
    progress = status.get("progress") or {}
    step, total = progress.get("step"), progress.get("totalSteps")
    if status.get("state") not in ("Running", "Resizing") or not step or not total or step > total:
        return None
    goodput = status.get("goodput") or {}
    gained = step - goodput.get("firstStep", 0)
    if pace is None and goodput.get("trainingSeconds") and gained > 0:
        pace = Pace(gained, goodput["trainingSeconds"])
    if pace is None:
        start, seen = moment(status.get("startTime")), moment(progress.get("time"))
        if start is None or seen is None or seen <= start:
            return None
        pace = Pace(int(step), (seen - start).total_seconds())
    return float((total - step) * pace.seconds / pace.steps) if pace.steps > 0 else None


def goodput_words(status: dict[str, Any], now: datetime) -> str:
    """Return the share of the time that trained, up to now if the job recovers. Empty: it is unknown."""
    found, last = status.get("goodput") or {}, moment((status.get("progress") or {}).get("time"))
    training, lost = found.get("trainingSeconds", 0), found.get("lostSeconds", 0)
    if status.get("state") in ("Pending", "Starting", "Resizing") and last is not None and last < now:
        lost += int((now - last).total_seconds())
    if not training + lost:
        return ""
    share = int(100 * training / (training + lost))
    return f"{share} % of the time since the first step: {duration(training)} training, {duration(lost)} lost"


def _figures(progress: dict[str, Any], now: datetime) -> str:
    found = []
    if progress.get("epoch") is not None:
        found.append(f"epoch {progress['epoch']}")
    if progress.get("loss") is not None:
        found.append(f"loss {progress['loss']:.6g}")
    if progress.get("samplesPerSecond") is not None:
        found.append(f"{progress['samplesPerSecond']:.6g} samples/s")
    if progress.get("snapshotStep") is not None:
        taken = f" ({age(progress['snapshotTime'], now)} ago)" if progress.get("snapshotTime") else ""
        found.append(f"snapshot of step {progress['snapshotStep']}{taken}")
    if found and progress.get("time"):
        found.append(f"reported {age(progress['time'], now)} ago")
    return ", ".join(found)


def _membership(job: dict[str, Any], status: dict[str, Any]) -> str:
    found, spec = status.get("membership") or {}, job.get("spec") or {}
    wanted = found.get("desiredNodes") or spec.get("replicas") or str(spec.get("nnodes", "")).rpartition(":")[2]
    text = f"{found.get('nodes', 0)} of {wanted} wanted nodes train (nnodes {spec.get('nnodes')})"
    if found.get("worldSize"):
        text += f", world size {found['worldSize']}"
    if found.get("nodes"):
        text += f", round {found.get('round', 0)}"
    if found.get("spares") is not None:
        text += f"; {found['spares']} of {(spec.get('elasticity') or {}).get('spares', 0)} spares ready"
    return text


def _change(change: dict[str, Any], now: datetime) -> str:
    if not change:
        return ""
    text = f"{age(change.get('time'), now)} ago, cause: {change.get('cause')}"
    if change.get("recoverySeconds") is None:
        return f"{text}; not trained again yet"
    text += f"; trained again after {change['recoverySeconds']:.4g} s"
    lost = change.get("lostSteps")
    return text + (f", {lost} {'step' if lost == 1 else 'steps'} repeated" if lost is not None else "")


def _restarts(job: dict[str, Any], status: dict[str, Any], paint: Paint) -> str:
    counts = status.get("restarts") or {}
    if not any(counts.values()):
        return ""
    budget = (job.get("spec") or {}).get("maxRestarts", 3)
    code = counts.get("code", 0)
    by_code = f"code {code} of {budget}"
    others = [f"{cause} {counts.get(cause, 0)}" for cause in ("infrastructure", "preemption", "resize")]
    return ", ".join([paint.warn(by_code) if code else by_code, *others])


def _straggler(found: dict[str, Any], paint: Paint) -> str:
    if not found:
        return ""
    where = f" on {found['machine']}" if found.get("machine") else ""
    lag = f"the others wait {found.get('lagSeconds', 0):.3g} s of each step of {found.get('stepSeconds', 0):.3g} s"
    return paint.warn(f"rank {found.get('rank')} (pod {found.get('pod')}{where}): {lag}")


def workers_per_node(job: dict[str, Any]) -> int | None:
    """Return how many workers a node has. None: it is unknown while no round is complete."""
    membership = (job.get("status") or {}).get("membership") or {}
    if membership.get("nodes") and membership.get("worldSize"):
        return int(membership["worldSize"]) // int(membership["nodes"]) or None
    configured = (job.get("spec") or {}).get("nprocPerNode", 1)
    return configured if isinstance(configured, int) else None


def ranks_of(node: dict[str, Any], per_node: int | None) -> str:
    """Return the ranks of the workers of a node: `3`, or `8-15`. It is `-` if the node has none."""
    rank = node.get("rank")
    if rank is None or per_node is None:
        return "-"
    first, last = rank * per_node, (rank + 1) * per_node - 1
    return str(first) if first == last else f"{first}-{last}"


def _nodes(job: dict[str, Any], status: dict[str, Any], now: datetime, paint: Paint, width: int | None) -> list[str]:
    nodes = status.get("nodes") or []
    if not nodes:
        return []
    per_node = workers_per_node(job)
    rows = [
        [
            paint.node(str(node.get("index")), int(node.get("index", 0))),
            ranks_of(node, per_node),
            paint.state(node.get("phase") or "-"),
            node.get("pod") or "-",
            node.get("machine") or "-",
            node.get("address") or "-",
            _note(node, now),
        ]
        for node in _worst_first(nodes)[:_MOST_NODES]
    ]
    titles = ["NODE", "RANKS", "PHASE", "POD", "RUNS ON", "ADDRESS", "NOTE"]
    if not any(row[-1] for row in rows):
        titles, rows = titles[:-1], [row[:-1] for row in rows]
    lines = table(titles, rows, paint=paint, width=width)
    more = len(nodes) - _MOST_NODES
    return [*lines, paint.dim(f"and {more} more: see -o json")] if more > 0 else lines


def _worst_first(nodes: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the nodes by index, or, of more than fit, those first that do not run."""
    known = list(nodes)
    if len(known) <= _MOST_NODES:
        return known
    return sorted(known, key=lambda node: (node.get("phase") in ("Running", "Succeeded"), node.get("index", 0)))


def _note(node: dict[str, Any], now: datetime) -> str:
    notes = ["spare"] if node.get("spare") else []
    held = node.get("backOff") or {}
    if held:
        notes.append(f"ended {held.get('failures')} times soon after its start")
        until = moment(held.get("retryTime"))
        if until is not None and until > now:
            notes.append(f"replaced in {duration((until - now).total_seconds())}")
    return ", ".join(notes)


def _conditions(status: dict[str, Any], now: datetime, paint: Paint, width: int | None) -> list[str]:
    rows = []
    for condition in status.get("conditions") or ():
        state, kind = condition.get("status"), condition.get("type", "")
        expected = _NORMAL.get(kind, "False")
        shown = state if state == expected else paint.warn(str(state))
        since = age(condition.get("lastTransitionTime"), now)
        rows.append([kind, str(shown), condition.get("reason", ""), since, _one_line(condition.get("message", ""))])
    return table(["CONDITION", "STATUS", "REASON", "SINCE", "MESSAGE"], rows, paint=paint, width=width) if rows else []


def failure_lines(status: dict[str, Any], now: datetime, paint: Paint, width: int | None) -> list[str]:
    """Return what a status keeps of the last failure. It is empty if nothing has failed."""
    failure = status.get("lastFailure") or {}
    if not failure:
        return []
    head = paint.bold("Last failure") + f": {age(failure.get('time'), now)} ago, cause: {failure.get('cause')}"
    where = failure.get("pod") or ""
    if where and failure.get("machine"):
        where += f" on {failure['machine']}"
    who = [f"rank {failure['rank']}"] if failure.get("rank") is not None else []
    who += [f"container {failure['container']}"] if failure.get("container") else []
    who += [f"pod {where}"] if where else []
    who += [f"exit code {failure['exitCode']}"] if failure.get("exitCode") is not None else []
    who += [str(failure[key]) for key in ("signal", "reason") if failure.get(key)]
    lines = [head, f"  {', '.join(who)}"] if who else [head]
    message = _one_line(failure.get("message") or "")
    room = width - 2 if width is not None else None
    lines += [f"  {paint.bad(line)}" for line in wrapped(message, room) if line]
    return lines + [f"    {line}".rstrip() for line in (failure.get("traceback") or "").splitlines()]


def _one_line(text: str) -> str:
    return " ".join(text.split())
