"""`kubectl torchrun logs`."""

import sys
from datetime import timedelta
from typing import Any

import click

from torchrun_cli.cluster.client import Client, connect
from torchrun_cli.cluster.loglines import Place, Wish
from torchrun_cli.cluster.logs import Entry, Follower, container_state, history, node_pods, source_of
from torchrun_cli.cluster.resources import JOBS
from torchrun_cli.errors import CliError
from torchrun_cli.options import Target, command, target_options
from torchrun_cli.show.job import failure_lines
from torchrun_cli.show.loglines import failed_pods, find_rank, pods_of_rank, prefixed
from torchrun_cli.show.pace import has_ended
from torchrun_cli.show.style import cleaned
from torchrun_cli.show.times import seconds_of
from torchrun_cli.terminal import now, paint, say
from torchrun_operator.api.names import TRAINER_CONTAINER


@command(
    examples="""
    kubectl torchrun logs digits
    kubectl torchrun logs digits --follow
    kubectl torchrun logs digits --rank 3 --tail 100
    kubectl torchrun logs digits --failed
    """,
)
@click.argument("name")
@click.option("-f", "--follow", is_flag=True, help="Go on with new lines and new pods until the job has ended.")
@click.option("--rank", type=click.IntRange(0), help="Show the node that has this rank, without its other ranks.")
@click.option("--node", type=click.IntRange(0), help="Show the node with this index.")
@click.option("--failed", is_flag=True, help="Show the pods that failed, or what the status keeps of them.")
@click.option("--previous", is_flag=True, help="Show what the containers wrote before they were restarted.")
@click.option("-c", "--container", default=TRAINER_CONTAINER, show_default=True, help="Show this container.")
@click.option("--tail", type=click.IntRange(0), help="Begin with this many lines of each pod.")
@click.option("--since", metavar="DURATION", help="Begin so long ago: 90s, 5m, 2h.")
@click.option("--timestamps", is_flag=True, help="Show the time of each line.")
@click.option("--no-prefix", is_flag=True, help="Leave out the names of the pods.")
@target_options
def logs(target: Target, name: str, follow: bool, since: str | None, **options: Any) -> None:  # noqa: ANN401 as click has them
    """Show the logs of all nodes of a job in one stream.

    Lines come in the order of time, each with the name of its pod. With --follow, the stream goes on with the pods that
    replace others, and ends with the job.

    --rank shows the pod of that rank. If the lines say which worker wrote them (torchrun --tee 3 makes them), those of
    other ranks are left out.

    The log of a pod ends with the pod. Of a failed node that was replaced, the status keeps the traceback.
    """
    if follow and (options["failed"] or options["previous"]):
        raise click.UsageError("--follow cannot be combined with --failed or --previous")
    begin = ""
    if since is not None:
        begin = (now() - timedelta(seconds=seconds_of(since))).strftime("%Y-%m-%dT%H:%M:%SZ")
    client = connect(target)
    wish = Wish(begin, options.pop("tail"), options.pop("previous"))
    LogReader(client, client.get(JOBS, name), **options).read(wish, follow=follow)


class LogReader:
    """Prints the logs of one job. `job` is the job as it was seen last."""

    def __init__(
        self,
        client: Client,
        job: dict[str, Any],
        *,
        rank: int | None = None,
        node: int | None = None,
        failed: bool = False,
        container: str = TRAINER_CONTAINER,
        timestamps: bool = False,
        no_prefix: bool = False,
    ) -> None:
        self.job = job
        self._client = client
        self._rank, self._node, self._failed = rank, node, failed
        self._container = container
        self._timestamps, self._prefix = timestamps, not no_prefix
        self._paint = paint()
        self._state = ""

    def read(self, wish: Wish, *, follow: bool = False) -> None:
        """Print what is there, and with ``follow`` what comes until the job has ended. Raises CliError."""
        name = self.job["metadata"]["name"]
        pods = node_pods(self._client, name)
        failed = failed_pods(self.job, pods) if self._failed else None
        chosen = [pod for pod in pods if self._wants(pod, self.job)]
        if failed is not None:
            chosen = [pod for pod in chosen if pod["metadata"]["uid"] in failed]
        if not follow and self._rank is not None and find_rank(self.job, self._rank) is None:
            raise CliError("the ranks are unknown, because no round is complete yet: use --node")
        sources = [
            source_of(pod, self._container)
            for pod in chosen
            if container_state(pod, self._container) != "waiting" or wish.previous
        ]
        places: dict[str, Place] = {source.uid: Place() for source in sources}
        shown = 0
        for entry, place in history(self._client, sources, wish, self._note):
            places[entry.source.uid] = place
            shown += self._print(entry)
        sys.stdout.buffer.flush()
        if follow:
            self._follow(name, wish, places)
        elif not shown:
            self._explain(name, pods, chosen, wish)

    def _follow(self, name: str, wish: Wish, places: dict[str, Place]) -> None:
        follower = Follower(
            self._client,
            name,
            self._container,
            wish,
            self._wants,
            has_ended,
            self._note,
            changed=self._tell_state,
            places=places,
        )
        for entry in follower.entries():
            self.job = follower.last or self.job
            self._print(entry)
            if follower.idle:
                sys.stdout.buffer.flush()
        self.job = follower.last or self.job

    def _wants(self, pod: dict[str, Any], job: dict[str, Any]) -> bool:
        if self._node is not None and source_of(pod).node != self._node:
            return False
        if self._rank is None:
            return True
        where = find_rank(job, self._rank)
        return where is not None and pod["metadata"]["uid"] in pods_of_rank(job, where)

    def _print(self, entry: Entry) -> bool:
        """Print a line if it counts. Return whether it did."""
        source, line = entry
        text = line.text
        if self._rank is not None:
            where = find_rank(self.job, self._rank)
            if where is None or source.uid not in pods_of_rank(self.job, where) or not where.wants(text):
                return False
        if self._timestamps:
            text = line.time.encode() + b"Z " + text
        if self._prefix:
            text = prefixed(source.pod, source.node, text, most=self._longest(), paint=self._paint)
        sys.stdout.buffer.write(text + b"\n")
        return True

    def _longest(self) -> int:
        most = str((self.job.get("spec") or {}).get("nnodes", 1)).rpartition(":")[2]
        return len(self.job["metadata"]["name"]) + 1 + len(str(max(0, int(most) - 1)))

    def _explain(self, name: str, pods: list[dict[str, Any]], chosen: list[dict[str, Any]], wish: Wish) -> None:
        """Say why there is no line, with what the status keeps. Raises CliError if that is nothing."""
        kept = failure_lines(self.job.get("status") or {}, now(), self._paint, None)
        if kept and (self._failed or wish.previous or self._node is not None or not pods):
            click.echo("These pods left no log. The status keeps of the last failure:", err=True)
            say(kept)
            return
        if not pods:
            message = (self.job.get("status") or {}).get("message") or "the operator has not seen the job yet"
            raise CliError(f"{name} has no pods now: {message}")
        if wish.previous:
            raise CliError(f"{name} has no earlier containers: the operator replaces pods instead of restarting them")
        if not chosen:
            raise CliError(f"no node of {name} has failed" if self._failed else f"{name} has no such node now")

    def _tell_state(self, job: dict[str, Any]) -> None:
        """Say on stderr that the job has another state, and why: a stream without lines may wait for nodes."""
        status = job.get("status") or {}
        state = status.get("state") or ""
        if state and state != self._state:
            self._state = state
            message = cleaned(status.get("message") or "")
            self._note(f"{job['metadata']['name']} is {state}" + (f": {message}" if message else ""))

    def _note(self, text: str) -> None:
        click.echo(text, err=True)


def print_to_end(client: Client, name: str) -> dict[str, Any]:
    """Print all logs of a job until it has ended, and return the job. Raises CliError."""
    reader = LogReader(client, client.get(JOBS, name))
    reader.read(Wish(), follow=True)
    return reader.job
