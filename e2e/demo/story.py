"""The scenes of the demo. Each waits for its effect and measures it in the logs of the workers."""

import re
from pathlib import Path
from typing import Any

from demo.results import Results
from demo.screen import Screen
from support.clusters import LOCAL_TRAINER_IMAGE, ROOT, Cluster
from support.kubectl import Kubectl, Object
from support.progress import Step, Training
from support.waiting import wait_for

NAMESPACE = "torchrun-demo"
JOB = "digits"
KIND = "torchrunjob"
_MANIFEST = ROOT / "e2e" / "examples" / "digits" / "torchrunjob.yaml"
_STEP_SECONDS, _SHORTER_STEP_SECONDS = "--min-step-seconds=0.2", "--min-step-seconds=0.1"
_START_SECONDS = 180.0
_CHANGE_SECONDS = 120.0
_FINISH_SECONDS = 300.0
_LOOK_STEPS = 60
"""How many steps the job trains before each scene."""


class Story:
    """One run of the demo, on a cluster with the operator."""

    def __init__(self, cluster: Cluster, screen: Screen, results: Results) -> None:
        self._kubectl: Kubectl = cluster.kubectl.within(NAMESPACE)
        self._image = cluster.trainer_image
        self._screen = screen
        self._results = results
        self._step: Step | None = None
        self._seen: tuple[object, ...] = ()
        self._summary = ""
        self._training = Training(self._kubectl, JOB, self._stepped)
        self._watch = self._kubectl.watch(KIND, "", self._job_changed)

    def close(self) -> None:
        """Stop watching. The job stays."""
        self._watch.stop()
        self._training.stop()
        self._screen.close()

    def play(self) -> None:
        """Run all scenes. Raises NotInTimeError if an expected event does not happen."""
        self._start()
        self._kill_rank_zero()
        down = self._scale(2)
        self._results.scale_down_seconds, self._results.scale_down_repeated_steps = down
        up = self._scale(3)
        self._results.scale_up_seconds, self._results.scale_up_repeated_steps = up
        self._finish()

    def _start(self) -> None:
        self._screen.scene(f"kubectl apply -f {_MANIFEST.relative_to(ROOT)}      # with shorter steps")
        began = self._training.now()
        self._kubectl.run("apply", "--filename=-", stdin=adapted(_MANIFEST.read_text(), self._image))
        first = self._training.wait("the first step", lambda _: True, _START_SECONDS)
        self._results.first_step_seconds = first.time - began
        self._screen.say(f"the first step, {first.time - began:.1f} s after apply, with {first.world} workers")
        self._train_on(first)

    def _kill_rank_zero(self) -> None:
        victim = wait_for("a node of rank 0 in status.nodes", self._rank_zero, _CHANGE_SECONDS)
        self._screen.scene(f"kubectl delete pod {victim} --force --grace-period=0      # the node of rank 0")
        before, began = self._last(), self._training.now()
        self._kubectl.run("delete", "pod", victim, "--force", "--grace-period=0")
        after = self._training.wait("a step after the kill", lambda step: step.started_at > began, _CHANGE_SECONDS)
        self._results.recovery_seconds = after.time - began
        self._results.repeated_steps = max(0, before.step - after.started_from)
        self._tell("it trains again", before, after, began)
        self._train_on(self._whole(after, before.world, began))

    def _scale(self, replicas: int) -> tuple[float, int]:
        """Return the seconds until the job trains at that size, and the number of repeated steps."""
        self._screen.scene(f"kubectl scale {KIND} {JOB} --replicas={replicas}")
        began = self._training.now()
        self._kubectl.run("scale", KIND, JOB, f"--replicas={replicas}")
        after = self._whole(None, replicas, began)
        # Every step done before, from any report: a drained round ends with a line of its own.
        before = max(
            (step for step in self._training.steps() if step.started_at < after.started_at), key=lambda step: step.time
        )
        self._tell(f"{replicas} nodes train", before, after, began)
        self._train_on(after)
        return after.time - began, max(0, before.step - after.started_from)

    def _finish(self) -> None:
        self._screen.scene("Let it finish")
        wait_for("the job's end", self._ended, _FINISH_SECONDS, seen=lambda: self._summary)
        job = self._job()
        last = self._last()
        results = self._results
        results.resumed_from = [int(line.values["at"]) for line in self._training.starts()]
        results.restarts = {cause: int(count) for cause, count in job["status"]["restarts"].items()}
        results.final_step, results.snapshot_step = last.step, last.snapshot
        results.accuracy = wait_for("the accuracy in the log", lambda: self._accuracy(last.pod), _CHANGE_SECONDS)
        self._screen.say(f"{job['status']['state']}; accuracy {results.accuracy:.3f} on unseen digits")

    def _train_on(self, since: Step) -> None:
        """Let the job train for some steps; fewer if it is about to finish."""
        aim = since.step + _LOOK_STEPS
        self._training.wait(f"step {aim}", lambda step: step.step >= min(aim, step.total or aim), _CHANGE_SECONDS)

    def _whole(self, after: Step | None, world: int, began: float) -> Step:
        """Wait for a step with that many workers (one per node) that started after a moment."""
        if after is not None and after.world == world:
            return after
        what = f"a step with {world} workers"
        return self._training.wait(what, lambda step: step.started_at > began and step.world == world, _CHANGE_SECONDS)

    def _last(self) -> Step:
        return max(self._training.steps(), key=lambda step: step.time)

    def _tell(self, what: str, before: Step, after: Step, began: float) -> None:
        repeated = max(0, before.step - after.started_from)
        lost = f"{repeated} steps to repeat" if repeated else "no step lost"
        self._screen.say(f"{what}, {after.time - began:.1f} s later, from step {after.started_from}: {lost}")

    def _job(self) -> dict[str, Any]:
        job = self._kubectl.get(KIND, JOB)
        if job is None:
            raise RuntimeError(f"the job {JOB} was deleted")
        return job

    def _rank_zero(self) -> str | None:
        nodes = (self._job().get("status") or {}).get("nodes") or []
        return next((node["pod"] for node in nodes if node.get("rank") == 0 and node["phase"] == "Running"), None)

    def _ended(self) -> bool:
        status = self._job().get("status") or {}
        if status.get("state") == "Failed":
            failed = next(c for c in status["conditions"] if c["type"] == "Failed")
            raise RuntimeError(f"the job failed: {failed['message']}")
        return status.get("state") == "Complete"

    def _accuracy(self, pod: str) -> float | None:
        found = re.findall(r"^accuracy=([0-9.]+)$", self._kubectl.run("logs", pod, "--container=trainer"), re.MULTILINE)
        return float(found[-1]) if found else None

    def _stepped(self, step: Step) -> None:
        self._step = step
        self._show()

    def _job_changed(self, job: Object) -> None:
        status = job.get("status") or {}
        seen = (status.get("state"), (status.get("membership") or {}).get("summary"))
        if seen != self._seen and seen[0]:
            self._seen = seen
            self._screen.say(f"{seen[0]:<10} nodes {seen[1]}")
        self._summary = f"{seen[0] or 'new':<10} nodes {seen[1] or '-'}"
        self._show()

    def _show(self) -> None:
        if self._step is None:
            self._screen.status(self._summary)
            return
        step = self._step
        loss = f"loss {step.loss:.3f}" if step.loss is not None else ""
        self._screen.status(f"{self._summary}  world {step.world}  step {step.step}/{step.total}  {loss}")


def adapted(manifest: str, image: str) -> str:
    """Return the example with that image, and twice as fast."""
    for old, new in ((LOCAL_TRAINER_IMAGE, image), (_STEP_SECONDS, _SHORTER_STEP_SECONDS)):
        if manifest.count(old) != 1:
            raise RuntimeError(f"{_MANIFEST} does not contain {old} exactly once; update the demo")
        manifest = manifest.replace(old, new)
    return manifest


def prepare(kubectl: Kubectl) -> None:
    """Create an empty namespace, without the remains of an earlier run."""
    kubectl.run("delete", "namespace", NAMESPACE, "--ignore-not-found", "--timeout=120s")
    kubectl.run("create", "namespace", NAMESPACE)


def hints(kubeconfig: Path, local: bool) -> str:
    """Print commands to look around and to clean up."""
    lines = [
        f"export KUBECONFIG={kubeconfig}" if local else "",
        f"kubectl -n {NAMESPACE} get trj,pods",
        f"kubectl -n {NAMESPACE} describe trj {JOB}",
        f"kubectl -n {NAMESPACE} get trj {JOB} -o jsonpath={{.status}}",
        "make demo           # again, from the start",
        "make cluster-down   # to clean up" if local else f"kubectl delete namespace {NAMESPACE}",
    ]
    return "\n".join(f"  {line}" for line in lines if line)
