"""The network policies of a job, on a cluster whose agent enforces them."""

import json
from typing import Any

import pytest
from test_cluster_smoke import job, wait_state, wait_status  # type: ignore[import-not-found]

from support.clusters import Cluster
from support.kubectl import Kubectl, Object
from support.waiting import wait_for

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300, func_only=True)]

_SECONDS = 120.0
_STORE, _CONTROL = 29400, 29401
_SERVER = "import http.server as s; s.ThreadingHTTPServer(('', 8000), s.SimpleHTTPRequestHandler).serve_forever()"
_LISTENING = """
import json
lines = [line.split() for name in ("tcp", "tcp6") for line in open(f"/proc/net/{name}").readlines()[1:]]
local = {line[1].rpartition(":") for line in lines if line[3] == "0A"}
loopback = ("0100007F", "00000000000000000000000001000000")
print(json.dumps(sorted({int(port, 16) for address, _, port in local if address not in loopback})))
"""
_CONNECT = """
import json, socket, sys
def reached(address, port):
    try:
        socket.create_connection((address, port), timeout=3).close()
    except TimeoutError:
        return "silence"
    except ConnectionRefusedError:
        return "refused"
    return "open"
print(json.dumps({target: reached(*target.split(":")) for target in sys.argv[1:]}))
"""


def stranger(image: str, name: str) -> Object:
    """Return a pod that serves HTTP on port 8000, and from which a test connects to others."""
    container = {
        "name": "main",
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "command": ["python3", "-c", _SERVER],
    }
    spec = {"containers": [container], "terminationGracePeriodSeconds": 0}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": name}}, "spec": spec}


def address(kubectl: Kubectl, pod: str) -> str:
    """Wait until the containers of a pod are ready, and return its address."""

    def probe() -> str | None:
        state = (kubectl.get("pod", pod) or {}).get("status", {})
        containers = state.get("containerStatuses", ())
        return state.get("podIP") if containers and all(each["ready"] for each in containers) else None

    return wait_for(f"{pod} runs", probe, _SECONDS)


def python(kubectl: Kubectl, pod: str, program: str, *arguments: str) -> Any:
    """Run a program in a pod and return its JSON output."""
    return json.loads(kubectl.run("exec", pod, "--", "python3", "-c", program, *arguments))


def ports(kubectl: Kubectl, pod: str) -> list[int]:
    """Return the ports on which a pod listens for others."""
    found: list[int] = python(kubectl, pod, _LISTENING)
    return found


def test_strangers_reach_no_port_of_a_job(cluster: Cluster, kubectl: Kubectl) -> None:
    """Neither the rendezvous nor the workers, whose ports differ at each start. Without the policies they do."""
    other = kubectl.within(f"{kubectl.namespace}-other")
    cluster.kubectl.run("create", "namespace", other.namespace)
    try:
        for where in (kubectl, other):
            where.apply(stranger(cluster.trainer_image, "stranger"))
        kubectl.apply(job("guarded", cluster.trainer_image, "2:2", steps=100_000))
        wait_status(kubectl, "guarded", "a step", lambda found: (found.get("progress") or {}).get("step", 0) > 0)
        nodes = {pod: address(kubectl, pod) for pod in ("guarded-0", "guarded-1")}
        rendezvous = address(kubectl, "guarded-rdzv")
        closed = [f"{rendezvous}:{port}" for port in (_STORE, _CONTROL)]
        listening = [f"{ip}:{port}" for pod, ip in nodes.items() for port in ports(kubectl, pod)]
        assert any(nodes["guarded-0"] in each for each in listening), "rank 0 has a store for the workers"
        closed += listening
        free = [f"{address(where, 'stranger')}:8000" for where in (kubectl, other)]
        expected = dict.fromkeys(closed, "silence") | dict.fromkeys(free, "open")
        for where in (kubectl, other):
            assert python(where, "stranger", _CONNECT, *closed, *free) == expected
        assert python(kubectl, "guarded-1", _CONNECT, *closed) == dict.fromkeys(closed, "open")

        kubectl.patch("torchrunjob", "guarded", {"spec": {"networkPolicy": False}})
        wait_for(
            "a job without policies is open",
            lambda: set(python(other, "stranger", _CONNECT, *closed).values()) == {"open"},
            _SECONDS,
        )
    finally:
        cluster.kubectl.run("delete", "namespace", other.namespace, "--wait=false")


def test_a_job_trains_where_everything_is_denied(cluster: Cluster, kubectl: Kubectl) -> None:
    """Its pods reach each other and DNS, and nothing else: the policy of the namespace stays in force."""
    deny = {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    kubectl.apply(
        {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": "deny"}, "spec": deny},
        stranger(cluster.trainer_image, "stranger"),
        job("denied", cluster.trainer_image, "2:2", steps=100),
    )
    wait_state(kubectl, "denied", "Running")
    closed = f"{address(kubectl, 'stranger')}:8000"
    assert python(kubectl, "denied-0", _CONNECT, closed) == {closed: "silence"}
    assert wait_state(kubectl, "denied", "Complete")["restartCount"] == 0
