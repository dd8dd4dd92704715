"""Sentences about what the job waits for, for the messages of conditions."""

from collections.abc import Iterable, Sequence

from torchrun_operator.api.base import rfc3339
from torchrun_operator.api.names import TRAINER_CONTAINER
from torchrun_operator.core.findings.waits import Kind, Obstacle, Waits

_MOST_SENTENCES = 3
_MOST_NAMES = 3


def about_nodes(waits: Waits, pods: int, kinds: Iterable[Kind], namespace: str) -> list[str]:
    """Return a sentence for each obstacle of these kinds. The job wants that many node ``pods``."""
    chosen = frozenset(kinds)
    found = [_about(each, pods, namespace) for each in waits.nodes if each.kind in chosen]
    more = len(found) - _MOST_SENTENCES
    return [*found[:_MOST_SENTENCES], *([f"{more} more causes"] if more > 0 else [])]


def that_lasts(waits: Waits, pods: int, namespace: str) -> list[str]:
    """Return the sentences about pods that do not start by themselves, the rendezvous pod first."""
    lasting = (Kind.STUCK, Kind.UNPLACED)
    host = [about_host(waits.host)] if waits.host is not None and waits.host.kind in lasting else []
    return [*host, *about_nodes(waits, pods, lasting, namespace)]


def about_host(host: Obstacle) -> str:
    """Return the sentence about the rendezvous pod."""
    return _sentence(f"the rendezvous pod {host.pods[0]}", host)


def _about(obstacle: Obstacle, pods: int, namespace: str) -> str:
    sentence = _sentence(_subject(obstacle.pods, pods), obstacle)
    if obstacle.kind is Kind.UNHEARD:
        sentence += f"; see kubectl -n {namespace} logs {obstacle.pods[0]} -c {TRAINER_CONTAINER}"
    return sentence


def _sentence(subject: str, obstacle: Obstacle) -> str:
    what = obstacle.what
    if subject.startswith("pods ") or "node pods" in subject:
        what = what.replace("is ", "are ", 1) if what.startswith("is ") else what
        what = what.replace("has ", "have ", 1) if what.startswith("has ") else what
    since = f" since {rfc3339(obstacle.since)}" if obstacle.since is not None else ""
    head, comma, rest = what.partition(",")
    return f"{subject} {head}{since}{comma}{rest}" + (f"; {obstacle.remedy}" if obstacle.remedy else "")


def _subject(names: Sequence[str], pods: int) -> str:
    if len(names) == 1:
        return f"pod {names[0]}"
    if len(names) <= _MOST_NAMES:
        return f"pods {', '.join(names[:-1])} and {names[-1]}"
    return f"{len(names)} of {pods} node pods, such as {names[0]},"
