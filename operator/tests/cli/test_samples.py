"""The gallery: every sample renders, is valid, takes all its values, and its page says what they are."""

import re
import shlex
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from torchrun_cli.app import PROGRAM, app
from torchrun_cli.samples import Sample, every, find
from torchrun_cli.template.program import _environment
from torchrun_cli.template.values import split_defaults

NAMES = [sample.name for sample in every()]
WITH = {"output_url": "s3://results/digits", "track": "wandb", "elastic": True}
"""With these, all other values have an effect."""
OTHERS = {
    "cpu": "2",
    "device": "gpu",
    "devices": 3,
    "elastic": False,
    "fail_at_step": 60,
    "image": "registry.example.com/team/train:1",
    "launcher": "python",
    "lead_cpu": "3",
    "memory": "48Gi",
    "name": "another",
    "nccl_config_map": "pool",
    "num_nodes": 3,
    "output_seconds": 60,
    "output_secret": "s3",
    "output_image": "registry.example.com/team/transfer:1",
    "output_url": "s3://results/others",
    "port": 29500,
    "snapshots_claim": "shared",
    "snapshots_size": "9Gi",
    "storage_class": "fast",
    "track": "tensorboard",
    "wandb_mode": "online",
}
"""Other values than the defaults. Numbers are not listed: theirs is one more."""


def run(*args: str) -> Result:
    return CliRunner().invoke(app, args, prog_name=PROGRAM)


def defaults(sample: Sample) -> dict[str, Any]:
    return split_defaults(sample.manifest.read_text(), sample.name)[1]


def other(name: str, default: object) -> object:
    return OTHERS[name] if name in OTHERS else default + 1  # type: ignore[operator]


def settings(values: dict[str, Any]) -> list[str]:
    return ["--set", *(f"{name}={yaml.safe_dump(value).split()[0]}" for name, value in values.items())]


def rows(page: str) -> dict[str, Any]:
    """Return the values of the table of a page and their defaults."""
    found: dict[str, Any] = {}
    for names, values in re.findall(r"^\| (`.*?) \| (.*?) \|", page, re.MULTILINE):
        found |= dict(zip(re.findall("`(.*?)`", names), map(yaml.safe_load, values.split(", ")), strict=True))
    return found


def commands(page: str) -> list[list[str]]:
    """Return the arguments of each `kubectl torchrun submit` of a page, without those about the cluster."""
    lines = re.findall(r"^kubectl torchrun submit (.*)$", page.replace("\\\n", " "), re.MULTILINE)
    return [[word for word in shlex.split(line, comments=True) if word != "--follow"] for line in lines]


@pytest.mark.parametrize("name", NAMES)
def test_every_value_has_an_effect(name: str) -> None:
    text, values = split_defaults(find(name).manifest.read_text(), name)
    template = _environment().from_string(text)
    values |= {key: value for key, value in WITH.items() if key in values}
    rendered = template.render(values)
    unused = [key for key, value in values.items() if template.render(values | {key: other(key, value)}) == rendered]
    assert unused == []


@pytest.mark.parametrize("name", NAMES)
def test_a_sample_is_valid_with_other_values(name: str) -> None:
    values = defaults(find(name))
    # More nodes at least than at most would be an error of the values.
    changed = {key: other(key, value) for key, value in values.items() if key not in ("min_nodes", "name")}
    for args in ([], settings(changed)):
        checked = run("validate", f"sample:{name}", *args)
        assert (checked.exit_code, checked.output) == (0, f"torchrunjob.torchrun.dev/{name} is valid\n")


@pytest.mark.parametrize("name", NAMES)
def test_the_page_says_what_the_values_are_and_its_commands_work(name: str) -> None:
    page = find(name).read("README.md")
    assert rows(page) == defaults(find(name))
    assert commands(page)
    for command in commands(page):
        checked = run("validate", *command)
        assert (checked.exit_code, checked.output[:26]) == (0, "torchrunjob.torchrun.dev/" + checked.output[25:26])


@pytest.mark.parametrize("name", NAMES)
def test_a_gpu_for_each_worker(name: str) -> None:
    workers = 8
    args = ["-o", "json", "--set", "device=gpu", f"n_gpus_per_node={workers}"]
    spec = yaml.safe_load(run("render", f"sample:{name}", *args).output)["spec"]
    pod = spec["template"]["spec"]
    assert spec["nprocPerNode"] == workers
    wanted = {"memory": "64Gi", "nvidia.com/gpu": workers}
    found = [pod["containers"][0]["resources"], *([spec["lead"]["resources"]] if "lead" in spec else [])]
    assert [resources["limits"] for resources in found] == [wanted] * len(found)
    assert pod["volumes"] == [{"name": "shared-memory", "emptyDir": {"medium": "Memory"}}]


def test_the_gallery_is_listed_and_shown() -> None:
    listed = run("samples", "list").output
    assert [line.split(maxsplit=1) for line in listed.splitlines()] == [[one.name, one.title] for one in every()]
    for sample in every():
        assert 20 < len(sample.title) < 70
        shown = run("samples", "show", sample.name).output
        assert shown.startswith(f"# {sample.name}: {sample.title}\n")
        assert shown.endswith(f"Files: {', '.join(sample.files())}; print one with --file NAME\n")
        assert run("samples", "show", sample.name, "--file", "manifest.yaml").output == sample.manifest.read_text()


def test_the_sample_that_changes_three_numbers() -> None:
    values = ["--set", "max_nodes=8", "min_nodes=4", "n_gpus_per_node=8", "device=gpu"]
    spec = yaml.safe_load(run("render", "sample:elastic-torchrun", *values).output)["spec"]
    assert (spec["nnodes"], spec["replicas"], spec["nprocPerNode"]) == ("4:8", 8, 8)
    assert spec["files"][0]["content"].startswith("# Generated from e2e/examples/digits/train.py")


@pytest.mark.parametrize(
    ("elastic", "found"),
    [
        (False, (2, {"backend": "static", "port": 29400}, True)),
        (True, ("1:2", {"backend": "c10d", "port": 29400}, False)),
    ],
)
def test_a_value_makes_fixed_ranks_elastic(elastic: bool, found: tuple[object, object, bool]) -> None:
    output = run("render", "sample:multi-node", *settings({"elastic": elastic})).output
    spec = yaml.safe_load(output)["spec"]
    assert (spec["nnodes"], spec["rendezvous"], '--connect "$LEAD_IP"' in spec["files"][1]["content"]) == found
