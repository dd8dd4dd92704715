"""The one decision: facts -> findings -> plan -> status and events. Pure; each step is entered once.

          +-----------+  suspend   +-----------+
new ----> |  Pending  | <--------> | Suspended |
          +-----------+            +-----------+
                | every node pod is scheduled      ^
                v                                  | suspend
          +-----------+  round complete  +---------+ -------- losses, replicas -------> +----------+
          | Starting  | ---------------> | Running |                                    | Resizing |
          +-----------+                  +---------+ <------- round complete ---------- +----------+
                                              |                                              |
                         every node succeeded |                       maxRestarts exceeded   |
                                              v                                              v
                                        +----------+                                    +--------+
                                        | Complete |                                    | Failed |
                                        +----------+                                    +--------+
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from torchrun_operator.api.v1alpha1 import TorchrunJobStatus
from torchrun_operator.core.events import Event, events
from torchrun_operator.core.facts.model import Facts
from torchrun_operator.core.findings.find import find
from torchrun_operator.core.policies.chain import plan
from torchrun_operator.core.policies.plan import Plan
from torchrun_operator.core.status.report import report


@dataclass(frozen=True)
class Decision:
    """The status, actions and events of one pass."""

    status: TorchrunJobStatus
    plan: Plan
    host: str | None = None
    """The address of the rendezvous host to connect to. None: there is none."""
    events: tuple[Event, ...] = ()
    restarts: Mapping[str, int] = field(default_factory=dict)
    """New restarts by cause, for the metrics."""
    hung: bool = False
    """One of these restarts ended a hang."""


def decide(facts: Facts) -> Decision:
    """Return the decision for a valid job."""
    findings = find(facts)
    todo = plan(facts, findings)
    return Decision(
        status=report(facts, findings, todo),
        plan=todo,
        host=findings.reach.host,
        events=events(findings, todo),
        restarts=findings.counts.fresh,
        hung=findings.counts.hang is not None,
    )
