"""A job in the middle of its life, as the API server has it, for the tests of what the command line shows."""

from datetime import UTC, datetime
from typing import Any

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)
JOB: dict[str, Any] = {
    "apiVersion": "torchrun.dev/v1alpha1",
    "kind": "TorchrunJob",
    "metadata": {
        "name": "digits",
        "namespace": "ml",
        "uid": "u",
        "resourceVersion": "9",
        "generation": 2,
        "creationTimestamp": "2026-01-31T09:00:00Z",
    },
    "spec": {"nnodes": "2:4", "nprocPerNode": 2, "maxRestarts": 3, "elasticity": {"spares": 1}},
    "status": {
        "observedGeneration": 2,
        "state": "Running",
        "message": "3 of 4 nodes train in round 2; pod digits-3 waits: no room",
        "startTime": "2026-01-31T11:00:00Z",
        "membership": {
            "round": 2,
            "nodes": 3,
            "worldSize": 6,
            "desiredNodes": 4,
            "spares": 0,
            "summary": "3/2:4",
            "lastChange": {
                "time": "2026-01-31T11:55:00Z",
                "cause": "infrastructure",
                "recoverySeconds": 5.5,
                "lostSteps": 12,
            },
        },
        "restarts": {"code": 1, "infrastructure": 2, "preemption": 0, "resize": 0},
        "restartCount": 3,
        "progress": {
            "step": 400,
            "totalSteps": 1000,
            "epoch": 4,
            "loss": 0.25,
            "samplesPerSecond": 812.5,
            "snapshotStep": 380,
            "snapshotTime": "2026-01-31T11:59:00Z",
            "time": "2026-01-31T11:59:58Z",
        },
        "straggler": {"rank": 3, "pod": "digits-1", "machine": "w2", "lagSeconds": 0.31, "stepSeconds": 0.9},
        "conditions": [
            {
                "type": "Accepted",
                "status": "True",
                "reason": "Valid",
                "message": "the spec is valid",
                "lastTransitionTime": "2026-01-31T11:00:00Z",
            },
            {
                "type": "Scheduled",
                "status": "False",
                "reason": "WaitingForCapacity",
                "message": "pod digits-3 is not scheduled: 0/3 nodes are available: 3 Insufficient",
                "lastTransitionTime": "2026-01-31T11:55:00Z",
            },
            {
                "type": "Running",
                "status": "True",
                "reason": "Training",
                "message": "3 of 4 nodes train in round 2",
                "lastTransitionTime": "2026-01-31T11:55:05Z",
            },
        ],
        "lastFailure": {
            "time": "2026-01-31T11:55:00Z",
            "cause": "code",
            "pod": "digits-1",
            "machine": "w2",
            "rank": 3,
            "exitCode": 1,
            "reason": "WorkersFailed",
            "message": "ValueError: loss is not finite",
            "traceback": 'Traceback (most recent call last):\n  File "train.py", line 9\n    raise ValueError',
        },
        "nodes": [
            {"index": 0, "pod": "digits-0", "machine": "w1", "phase": "Running", "address": "10.0.0.1", "rank": 0},
            {"index": 1, "pod": "digits-1", "machine": "w2", "phase": "Running", "address": "10.0.0.2", "rank": 2},
            {"index": 2, "pod": "digits-2-r2", "machine": "w3", "phase": "Running", "address": "10.0.0.3", "rank": 1},
            {
                "index": 3,
                "pod": "digits-3",
                "phase": "Pending",
                "backOff": {"failures": 2, "retryTime": "2026-01-31T12:00:20Z"},
            },
        ],
    },
}
