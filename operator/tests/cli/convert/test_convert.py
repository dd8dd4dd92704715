"""Whole files: each source beside the manifest that it becomes. Every manifest passes the operator's own rules."""

import re
from pathlib import Path
from typing import Any

import pytest

from torchrun_cli.convert.convert import convert
from torchrun_cli.errors import CliError
from torchrun_cli.template.manifest import Source, load
from torchrun_cli.template.values import parse_set
from torchrun_operator.api.v1alpha1.job import job_of
from torchrun_operator.render.validation import problems

HERE = Path(__file__).parent


def expected_of(source: Path) -> Path:
    return source.with_suffix(".expected.yaml")


SOURCES = sorted(path for path in HERE.glob("*/*.yaml") if expected_of(path).exists())
VALUES = {"storage_url": "s3://bucket"}
"""What `--set` gives."""


def job_from(manifest: str, place: Path, **settings: str) -> dict[str, Any]:
    """Render a manifest as `submit` does. `place`: a directory for local files."""
    for name in re.findall(r"localPath: ([\w.]+)", manifest):
        (place / name).write_text(f"the text of {name}\n")
    used = {name: value for name, value in {**VALUES, **settings}.items() if "{{ " + name in manifest}
    values = [parse_set(f"{name}={value}") for name, value in used.items()]
    job = load(Source(manifest, "job.yaml", place), values).job
    job["metadata"].setdefault("namespace", "default")
    return job


def ids(path: Path) -> str:
    return str(path.relative_to(HERE).with_suffix(""))


@pytest.mark.parametrize("source", SOURCES, ids=ids)
def test_the_result_is_the_one_beside_the_source(source: Path) -> None:
    assert convert(source.read_text(), source.name) == expected_of(source).read_text()


@pytest.mark.parametrize(
    ("source", "before"),
    [
        ("pytorchjob/shell.yaml", "kubeflow.org/training-operator"),
        ("trainjob/runtime.yaml", "trainer.kubeflow.org/\\S+"),
    ],
)
def test_a_job_of_another_controller_stays_one(source: str, before: str) -> None:
    other = re.sub(f"managedBy: {before}", "managedBy: kueue.x-k8s.io/multikueue", (HERE / source).read_text())
    assert "\n  managedBy: kueue.x-k8s.io/multikueue\n" in convert(other, source)


@pytest.mark.parametrize("source", SOURCES, ids=ids)
def test_the_result_passes_the_rules_of_the_operator(source: Path, tmp_path: Path) -> None:
    assert problems(job_of(job_from(expected_of(source).read_text(), tmp_path))) == []


@pytest.mark.parametrize("manifest", sorted(HERE.glob("by_hand/*.yaml")), ids=lambda path: path.stem)
def test_the_manifests_of_the_pages_pass_the_rules_of_the_operator(manifest: Path, tmp_path: Path) -> None:
    assert problems(job_of(job_from(manifest.read_text(), tmp_path))) == []


def test_every_kind_of_source_has_examples() -> None:
    kinds = {path.parent.name for path in SOURCES}
    assert kinds == {"osmo", "pytorchjob", "trainjob"}
    assert {kind: sum(path.parent.name == kind for path in SOURCES) for kind in kinds} == {
        "osmo": 5,
        "pytorchjob": 5,
        "trainjob": 2,
    }


def test_values_change_what_the_template_of_the_workflow_let_change(tmp_path: Path) -> None:
    manifest = expected_of(HERE / "osmo/elastic.yaml").read_text()
    job = job_from(manifest, tmp_path, max_nodes="8", n_gpus_per_node="4", epochs="20")
    assert job["spec"]["nnodes"] == "2:8"
    assert job["spec"]["nprocPerNode"] == 4
    assert "--epochs 20 --batch-size 256" in job["spec"]["files"][0]["content"]


def test_a_list_of_nodes_has_as_many_lines_as_the_job_has_nodes(tmp_path: Path) -> None:
    manifest = expected_of(HERE / "osmo/deepspeed.yaml").read_text()
    job = job_from(manifest, tmp_path, nodes="4")
    files = {file["path"]: file["content"] for file in job["spec"]["files"]}
    assert files["/tmp/hostfile"] == "".join(f"deepspeed-{node}.deepspeed slots=4\n" for node in range(4))


def test_windows_line_ends_and_a_byte_order_mark_make_no_difference() -> None:
    source = (HERE / "osmo/elastic.yaml").read_text()
    assert convert("\ufeff" + source.replace("\n", "\r\n"), "f") == convert(source, "f")


JOB = "apiVersion: kubeflow.org/v1\nkind: PyTorchJob\nmetadata: {name: a}\nspec:\n"
POD = "{template: {spec: {containers: [{name: pytorch, image: i, command: [torchrun, a.py]}]}}}"
TRAIN = "apiVersion: trainer.kubeflow.org/v1alpha1\nkind: TrainJob\nmetadata: {name: a}\nspec:\n"
RUNTIME = "apiVersion: trainer.kubeflow.org/v1alpha1\nkind: TrainingRuntime\nmetadata: {name: r}\n"
FLOW = "workflow:\n  name: a\n  groups:\n  - name: g\n    tasks:\n"
KINDS = "an OSMO workflow, a PyTorchJob (kubeflow.org/v1) or a TrainJob (trainer.kubeflow.org/v1alpha1)"
ERRORS = {
    "nothing": ("", f"f: the file is empty; write {KINDS}"),
    "no mapping": ("- a\n", "f:1: the file must be a mapping, such as `apiVersion: ...`"),
    "no YAML": (
        "a: [1\nb: 2\n",
        "f:2: this is not YAML: while parsing a flow sequence, expected ',' or ']', but got ':'",
    ),
    "control character": ("a: \x00", "f:1: the character U+0000 is not allowed in YAML"),
    "no kind": ("metadata: {name: a}\n", f"f:1: kind is missing; write {KINDS}"),
    "unknown kind": ("a: 1\nkind: MPIJob\n", f"f:2: kind MPIJob cannot be converted; convert reads {KINDS}"),
    "converted already": (
        "apiVersion: torchrun.dev/v1alpha1\nkind: TorchrunJob\n",
        "f:2: this is a TorchrunJob already; use it with kubectl torchrun submit",
    ),
    "other version": (
        JOB.replace("/v1", "/v1beta1"),
        "f:1: apiVersion kubeflow.org/v1beta1: a PyTorchJob can be read as kubeflow.org/v1; write that apiVersion",
    ),
    "two jobs": (
        f"{JOB}  pytorchReplicaSpecs: {{Worker: {POD}}}\n---\n{JOB}",
        (
            "f:7: the file has 2 documents, the next a PyTorchJob; convert one job at a time, and keep other objects "
            "in files of their own"
        ),
    ),
    "job and volume": (
        f"kind: PersistentVolumeClaim\n---\n{JOB}",
        "f:1: kind PersistentVolumeClaim cannot be converted; convert reads " + KINDS,
    ),
    "runtime alone": (RUNTIME, "f:1: the file has a runtime and no TrainJob; add the TrainJob after a line ---"),
    "no name": (
        "apiVersion: kubeflow.org/v1\nkind: PyTorchJob\nspec: {}\n",
        "f:1: metadata is missing; write metadata: {name: my-job}",
    ),
    "no replicas": (
        f"{JOB}  runPolicy: {{}}\n",
        "f:4: spec.pytorchReplicaSpecs is missing; write Master and Worker, each with a template",
    ),
    "unknown replica": (
        f"{JOB}  pytorchReplicaSpecs:\n    Master: {POD}\n    Launcher: {POD}\n",
        "f:7: spec.pytorchReplicaSpecs.Launcher is not known; write Master or Worker",
    ),
    "no template": (
        f"{JOB}  pytorchReplicaSpecs:\n    Master: {{replicas: 1}}\n",
        "f:6: spec.pytorchReplicaSpecs.Master.template is missing; write a pod template",
    ),
    "no containers": (
        f"{JOB}  pytorchReplicaSpecs:\n    Master:\n      template: {{spec: {{containers: []}}}}\n",
        "f:7: spec.pytorchReplicaSpecs.Master.template.spec.containers is missing; write the container pytorch",
    ),
    "container without its name": (
        f"{JOB}  pytorchReplicaSpecs: {{Master: {{template: {{spec: {{containers: [{{name: a}}, {{name: b}}]}}}}}}}}\n",
        "f:5: spec.pytorchReplicaSpecs.Master.template.spec.containers: no container is called pytorch; name one so",
    ),
    "no number": (
        f"{JOB}  elasticPolicy:\n    minReplicas: two\n  pytorchReplicaSpecs: {{Worker: {POD}}}\n",
        "f:6: spec.elasticPolicy.minReplicas must be a whole number, not 'two'",
    ),
    "no runtime, no image": (
        f"{TRAIN}  runtimeRef:\n    name: torch-distributed\n",
        (
            "f:6: spec.runtimeRef.name: the ClusterTrainingRuntime torch-distributed has the image, and it is not in "
            "the file; write spec.trainer.image, or add the runtime after a line ---: kubectl get "
            "clustertrainingruntime torch-distributed -o yaml"
        ),
    ),
    "runtime without a trainer": (
        f"{TRAIN}  runtimeRef: {{name: r, kind: TrainingRuntime}}\n---\n{RUNTIME}spec: {{template: {{spec: {{}}}}}}\n",
        "f:10: spec.template has no job with the label trainer.kubeflow.org/trainjob-ancestor-step: trainer",
    ),
    "no tasks": (
        "workflow:\n  name: a\n",
        "f:1: workflow has neither groups nor tasks; write the tasks to convert",
    ),
    "no workflow": ("default-values:\n  a: 1\n", "f: the file has 0 YAML documents; a workflow is one document"),
    "no image": (
        f"{FLOW}    - name: t\n      command: [a]\n",
        (
            "f:6: workflow.groups[0].tasks[0].image is missing; write the image of the container, such as "
            "registry.example.com/train:1"
        ),
    ),
    "no command": (
        f"{FLOW}    - name: t\n      image: i\n",
        "f:6: workflow.groups[0].tasks[0].command is missing; write the command, such as [bash, /tmp/run.sh]",
    ),
    "file without content": (
        f"{FLOW}    - name: t\n      image: i\n      command: [a]\n      files:\n      - path: /a\n",
        "f:10: workflow.groups[0].tasks[0].files[0]: write contents, or localpath, for /a",
    ),
    "unknown resource": (
        f"{FLOW}    - name: t\n      image: i\n      command: [a]\n      resource: big\n",
        "f:9: workflow.groups[0].tasks[0].resource: big is not in workflow.resources; write one of its names",
    ),
    "line of the template": (
        f"{FLOW}    {{% for i in [1] %}}\n    - name: t\n      image: i\n      command: {{a: 1}}\n    {{% endfor %}}\n",
        "f:9: workflow.groups[0].tasks[0].command must be a list",
    ),
    "YAML of a loop": (
        f"{FLOW}    {{% for i in range(3) %}}\n    - name: t\n     image: [\n    {{% endfor %}}\n",
        "f:8: this is not YAML: while parsing a block mapping, expected <block end>, but found '<block mapping start>'",
    ),
    "default missing": (
        f"{FLOW}    {{% for i in range(n) %}}\n    {{% endfor %}}\n",
        "f:6: 'n' is undefined; add it to default-values",
    ),
    "no template text": (
        f"{FLOW}    {{% for %}}\n",
        "f:6: the template cannot be read: Expected an expression, got 'end of statement block'",
    ),
    "unknown token": (
        f"{FLOW}    - name: {{{{pod:a}}}}\n",
        "f:6: the template cannot be read: expected token 'end of print statement', got ':'",
    ),
    "defaults twice": (
        "default-values:\n  a: 1\nworkflow: {}\ndefault-values:\n  b: 1\n",
        "f:4: default-values is already written above; keep one of them",
    ),
    "defaults are no mapping": (
        "workflow: {}\ndefault-values:\n  - a\n",
        "f:2: default-values: write NAME: VALUE below it",
    ),
    "no time": (
        (
            f"{FLOW}    - name: t\n      image: i\n      command: [a]\n      checkpoint:\n"
            "      - {path: /a, url: s3://b, frequency: often}\n"
        ),
        "f:10: workflow.groups[0].tasks[0].checkpoint[0].frequency: 'often' is no time; write one such as 10m",
    ),
    "large power": (
        f"{FLOW}    - name: x{{{{ 9 ** 9 ** 9 }}}}\n",
        "f:6: a number in front of or behind ** is too large; write it smaller",
    ),
    "large text": (
        f"{FLOW}    - name: {{{{ 'x' * 10 ** 9 }}}}\n",
        "f:6: a number in front of or behind * is too large; write it smaller",
    ),
    "endless text": (
        f"{FLOW}{{% for i in range(99999) %}}{{% for j in range(99999) %}}a{{% endfor %}}{{% endfor %}}\n",
        "f: the template makes too much text; lower the numbers in default-values",
    ),
}


@pytest.mark.parametrize(("text", "message"), ERRORS.values(), ids=ERRORS)
def test_errors_name_the_line_and_what_to_write(text: str, message: str) -> None:
    with pytest.raises(CliError) as raised:
        convert(text, "f")
    assert (raised.value.message, raised.value.exit_code) == (message, 2)


def test_aliases_that_stand_for_billions_of_values_are_an_error() -> None:
    lines = ["a0: &a0 [x]", *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 10))]
    with pytest.raises(CliError, match="this is more than 200000 values"):
        convert("\n".join([*lines, "kind: PyTorchJob"]), "f")
