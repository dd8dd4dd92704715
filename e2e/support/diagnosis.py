"""What a person would look at first, of a namespace in which a test failed."""

from support import chart
from support.clusters import Cluster
from support.kubectl import Kubectl, KubectlError


def story(cluster: Cluster, kubectl: Kubectl) -> str:
    """Return jobs, pods, events and logs of the namespace, and the log of the operator."""
    commands = [
        ("get", "torchrunjobs,pods", "--output=wide"),
        ("get", "events", "--sort-by=.lastTimestamp"),
        ("get", "torchrunjobs", "--output=jsonpath={range .items[*]}{.metadata.name}: {.status}{'\\n'}{end}"),
        ("logs", "--selector=torchrun.dev/role=node", "--prefix", "--tail=20", "--max-log-requests=20"),
        ("logs", "--selector=torchrun.dev/role=rendezvous", "--prefix", "--tail=20", "--max-log-requests=20"),
    ]
    parts = [_try(kubectl, *command) for command in commands]
    parts.append(_try(cluster.kubectl.within(chart.NAMESPACE), "logs", f"deployment/{chart.RELEASE}", "--tail=60"))
    return "\n\n".join(parts)


def _try(kubectl: Kubectl, *arguments: str) -> str:
    try:
        return f"$ kubectl {' '.join(arguments)}\n{kubectl.run(*arguments)}"
    except KubectlError as error:
        return str(error)
