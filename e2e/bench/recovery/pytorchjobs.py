"""Kubeflow's training-operator, for comparison: its controller of PyTorchJobs, built from its Go module."""

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from localcluster import builds
from localcluster.paths import Layout
from support.kubectl import Kubectl
from support.waiting import NotInTimeError

_MODULES = Path(__file__).parents[1] / "modules"
_NAME = "training-operator"
_MODULE = "github.com/kubeflow/training-operator"
_DEFINITION = "manifests/base/crds/kubeflow.org_pytorchjobs.yaml"
_LOG = "training-operator.log"


def version() -> str:
    """Return the compared version, from go.mod."""
    return builds.required_version((_MODULES / _NAME / "go.mod").read_text(), _MODULE)


def build() -> Path:
    """Return the program, built once per version."""
    return builds.provide(Layout.of(os.environ), builds.program(_NAME, _MODULES))


def _definition() -> Path:
    """Return the file of its CRD, which is in the module."""
    answer = subprocess.run(
        ["go", "mod", "download", "-json", _MODULE], cwd=_MODULES / _NAME, capture_output=True, text=True, check=True
    )
    return Path(json.loads(answer.stdout)["Dir"]) / _DEFINITION


@contextmanager
def operator(kubectl: Kubectl) -> Iterator[None]:
    """Run the controller of PyTorchJobs, as an administrator, while the block runs."""
    program, definition = build(), _definition()
    log = Layout.of(os.environ).logs / _LOG
    try:
        # Too large for the annotation of a client-side apply.
        kubectl.run("apply", "--server-side", f"--filename={definition}")
        kubectl.run("wait", "--for=condition=Established", f"--filename={definition}", "--timeout=60s")
        environment = {**os.environ, "KUBECONFIG": str(kubectl.kubeconfig)}
        with (
            log.open("ab") as output,
            subprocess.Popen([program], stdout=output, stderr=subprocess.STDOUT, env=environment) as process,
        ):
            try:
                yield
                if process.poll() is not None:
                    raise NotInTimeError(f"the training-operator exited; see {log}")
            finally:
                process.terminate()
    finally:
        kubectl.run("delete", f"--filename={definition}", "--ignore-not-found", "--timeout=60s")
