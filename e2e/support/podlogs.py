"""The logs of all pods that match a selector, including future pods."""

from collections.abc import Callable

from support.kubectl import Kubectl, Object, Stream


class PodLogs:
    """Follows one container in each of the pods, also across its restarts.

    `on_line` gets each line with the name and the uid of the pod, from a thread per pod. A line may come twice after a
    restart of the container.
    """

    def __init__(
        self, kubectl: Kubectl, selector: str, container: str, on_line: Callable[[str, str, str], None]
    ) -> None:
        self._kubectl = kubectl
        self._container = container
        self._on_line = on_line
        self._logs: dict[tuple[str, int], Stream] = {}
        self._pods = kubectl.watch("pods", selector, self._pod_changed)

    def stop(self) -> None:
        """Stop following."""
        self._pods.stop()
        for stream in self._logs.values():
            stream.stop()

    def _pod_changed(self, pod: Object) -> None:
        uid, name = pod["metadata"]["uid"], pod["metadata"]["name"]
        for status in pod["status"].get("containerStatuses") or []:
            key = (uid, status["restartCount"])
            started = {"running", "terminated"} & set(status.get("state") or {})
            if status["name"] == self._container and started and key not in self._logs:
                self._logs[key] = self._kubectl.follow(
                    name, self._container, lambda text: self._on_line(name, uid, text)
                )
