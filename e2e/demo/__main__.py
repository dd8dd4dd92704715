"""Entry point of `python3 -m demo`, which `make demo` runs."""

import contextlib
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from demo.results import Results
from demo.screen import Screen
from demo.story import Story, hints, prepare
from support import chart
from support.clusters import Cluster, UnusableError, local_cluster, own_cluster
from support.kubectl import KubectlError
from support.waiting import NotInTimeError


def main() -> int:
    """Run the demo. Returns 1 if a bar is missed or a scene fails, 2 if the cluster is unusable."""
    began, screen, results = time.monotonic(), Screen(), Results()
    try:
        cluster = own_cluster(os.environ, "DEMO") or _local(screen)
        _install(cluster, screen)
        with contextlib.closing(Story(cluster, screen, results)) as story:
            story.play()
    except UnusableError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    except (NotInTimeError, KubectlError, RuntimeError) as error:
        screen.text(f"\n{screen.bad('The demo stopped:')} {error}")
        return 1
    except KeyboardInterrupt:
        screen.close()
        screen.text("\nInterrupted. All objects stay: `make demo` starts again, `make cluster-down` removes them.")
        return 130
    finally:
        results.total_seconds = time.monotonic() - began
        if os.environ.get("DEMO_JSON"):
            results.write(Path(os.environ["DEMO_JSON"]))
    return _conclude(cluster, screen, results)


def _local(screen: Screen) -> Cluster:
    screen.scene("A Kubernetes cluster on this computer (set KUBECONFIG to use another)")
    return local_cluster()


def _install(cluster: Cluster, screen: Screen) -> None:
    screen.scene("helm install torchrun-operator charts/torchrun-operator")
    with ThreadPoolExecutor() as pool:
        for done in [pool.submit(chart.install, cluster), pool.submit(prepare, cluster.kubectl)]:
            done.result()
    screen.say("the operator is ready")


def _conclude(cluster: Cluster, screen: Screen, results: Results) -> int:
    screen.scene("Measured in the logs of the workers")
    screen.text(results.table(screen.good, screen.bad))
    failures = results.failures()
    for failure in failures:
        screen.text(f"  {screen.bad('Failed:')} {failure}")
    screen.scene("Look around")
    screen.text(hints(cluster.kubectl.kubeconfig, cluster.local))
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
