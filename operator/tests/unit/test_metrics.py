"""Metrics: each method changes only its own series, and the docs list every metric."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from torchrun_operator.api.v1alpha1.status import JobState
from torchrun_operator.telemetry.metrics import Metrics

DOCUMENT = Path(__file__).parents[3] / "docs" / "metrics.md"

Series = dict[str, float]


def series(metrics: Metrics) -> Series:
    """Return the operator's own series by name and labels; only sum and count of histograms."""
    found: Series = {}
    for family in text_string_to_metric_families(metrics.text().decode()):
        for sample in family.samples:
            if sample.name.startswith("torchrun_operator_") and not sample.name.endswith("_bucket"):
                labels = ",".join(f"{name}={value}" for name, value in sorted(sample.labels.items()))
                found[f"{sample.name.removeprefix('torchrun_operator_')}{{{labels}}}"] = sample.value
    return found


def changes(before: Series, after: Series) -> Series:
    return {name: value for name, value in after.items() if before.get(name) != value}


def jobs_come_and_go(metrics: Metrics) -> None:
    metrics.job_state("ns/a", JobState.RUNNING)
    metrics.job_state("ns/a", JobState.RUNNING)
    metrics.job_state("ns/b", JobState.PENDING)
    metrics.job_state("ns/b", JobState.RESIZING)
    metrics.job_state("ns/c", JobState.FAILED)
    metrics.rendezvous_link("ns/c", up=True)
    metrics.job_state("ns/c", None)
    metrics.job_state("ns/c", None)


def links_change(metrics: Metrics) -> None:
    metrics.rendezvous_link("ns/a", up=True)
    metrics.rendezvous_link("ns/b", up=True)
    metrics.rendezvous_link("ns/b", up=False)
    metrics.rendezvous_link("ns/c", up=False)
    metrics.rendezvous_link("ns/c", None)


def stragglers_change(metrics: Metrics) -> None:
    for key in ("ns/a", "ns/a", "ns/b", "ns/c"):
        metrics.straggling(key, True)
    metrics.straggling("ns/b", False)
    metrics.job_state("ns/c", None)


@pytest.mark.parametrize(
    ("act", "expected"),
    [
        (lambda m: None, {}),
        (
            lambda m: m.reconciled("done", 0.5),
            {
                "reconciles_total{result=done}": 1,
                "reconcile_duration_seconds_count{}": 1,
                "reconcile_duration_seconds_sum{}": 0.5,
            },
        ),
        (lambda m: m.error("conflict"), {"errors_total{kind=conflict}": 1}),
        (lambda m: m.watch_queue(lambda: 3, lambda: 1.5), {"queue_depth{}": 3, "queue_oldest_seconds{}": 1.5}),
        (
            lambda m: m.api_request("PATCH", "torchrunjobs/status", 200, 0.1),
            {
                "api_request_duration_seconds_count{resource=torchrunjobs/status,status=200,verb=PATCH}": 1,
                "api_request_duration_seconds_sum{resource=torchrunjobs/status,status=200,verb=PATCH}": 0.1,
            },
        ),
        (
            lambda m: m.follow_watch("jobs", "team", lambda: True, lambda: False),
            {"watch_up{namespace=team,watch=jobs}": 1, "watch_forbidden{namespace=team,watch=jobs}": 0},
        ),
        (jobs_come_and_go, {"jobs{state=Running}": 1, "jobs{state=Resizing}": 1}),
        (links_change, {"rendezvous_links{state=up}": 1, "rendezvous_links{state=down}": 1}),
        (lambda m: m.hung(), {"job_hangs_total{}": 1}),
        (stragglers_change, {"jobs_straggling{}": 1}),
        (lambda m: m.restarts("code", 2), {"job_restarts_total{cause=code}": 2}),
        (lambda m: m.restarts("code", 2**31), {"job_restarts_total{cause=code}": 100}),
        (lambda m: m.error("x" * 51), {"errors_total{kind=Other}": 1}),
        (lambda m: m.pods_created("node", 8), {"pods_created_total{role=node}": 8}),
        (lambda m: m.pods_deleted("rendezvous"), {"pods_deleted_total{role=rendezvous}": 1}),
        (lambda m: m.rounds_completed(3), {"rendezvous_rounds_total{}": 3}),
    ],
)
def test_methods_change_their_series(act: Callable[[Metrics], None], expected: Series) -> None:
    metrics = Metrics("1.2.3")
    before = series(metrics)
    act(metrics)
    assert changes(before, series(metrics)) == expected


def test_series_with_known_labels_start_at_zero() -> None:
    found = series(Metrics("1.2.3"))
    assert {name for name in found if name.startswith("jobs{")} == {f"jobs{{state={state}}}" for state in JobState}
    assert {name: value for name, value in found.items() if "cause=" in name or "role=" in name} == {
        **{f"job_restarts_total{{cause={c}}}": 0 for c in ("code", "infrastructure", "preemption", "resize")},
        **{
            f"pods_{verb}_total{{role={role}}}": 0
            for verb in ("created", "deleted")
            for role in ("node", "rendezvous", "outputs")
        },
    }


def test_build_info_and_process() -> None:
    metrics = Metrics("1.2.3")
    (info,) = [name for name in series(metrics) if name.startswith("build_info")]
    assert "version=1.2.3" in info
    assert b"process_cpu_seconds_total" in metrics.text()


def test_each_instance_counts_for_itself() -> None:
    one, other = Metrics("1"), Metrics("1")
    one.rounds_completed()
    assert series(other)["rendezvous_rounds_total{}"] == 0


def test_the_documentation_names_every_metric_its_kind_and_its_labels() -> None:
    metrics = Metrics("1.2.3")
    metrics.reconciled("done", 1)
    metrics.error("api")
    metrics.api_request("GET", "pods", 200, 1)
    metrics.follow_watch("pods", "", lambda: True, lambda: False)
    existing = {
        (
            family.name + ("_total" if family.type == "counter" else ""),
            family.type,
            frozenset(label for sample in family.samples for label in sample.labels if label != "le"),
        )
        for family in text_string_to_metric_families(metrics.text().decode())
        if family.name.startswith("torchrun_operator_")
    }
    rows = re.findall(r"^\| `(torchrun_operator_\w+)` \| (\w+) \|([^|]*)\|", DOCUMENT.read_text(), re.MULTILINE)
    documented = {(name, kind, frozenset(re.findall(r"`(\w+)`", labels))) for name, kind, labels in rows}
    assert documented == existing


def test_kinds_of_errors_are_few() -> None:
    metrics = Metrics("1.0")
    for number in range(60):
        metrics.error(f"Kind{number}")
    metrics.error("Kind1")
    found = {name: value for name, value in series(metrics).items() if name.startswith("errors_total")}
    assert found == {
        **{f"errors_total{{kind=Kind{number}}}": 2 if number == 1 else 1 for number in range(50)},
        "errors_total{kind=Other}": 10,
    }
