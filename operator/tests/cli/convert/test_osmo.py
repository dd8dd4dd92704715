"""Single rules of the conversion of OSMO workflows: the size, the values that stay, names, times, and uploads."""

from typing import Any

import pytest
import yaml

from torchrun_cli.convert.convert import convert
from torchrun_cli.convert.osmo_transfer import seconds

TASK = "image: i\n      command: [torchrun, a.py]"
DEFAULTS = "default-values:\n"


def workflow(tasks: str, *, head: str = "", group: str = "", defaults: str = "") -> str:
    text = f"workflow:\n  name: a\n{head}  groups:\n  - name: g\n{group}    tasks:\n{tasks}"
    return text + (f"{DEFAULTS}{defaults}" if defaults else "")


def loop(expression: str, task: str = TASK) -> str:
    return f"    {{% for i in {expression} %}}\n    - name: t{{{{ i }}}}\n      {task}\n    {{% endfor %}}\n"


def one(task: str = TASK, name: str = "t") -> str:
    return f"    - name: {name}\n      {task}\n"


def line_of(manifest: str, field: str) -> str:
    return next(line.strip() for line in manifest.splitlines() if line.strip().startswith(f"{field}:"))


SIZES = {
    "a variable": (loop("range(n)"), "n: 2", "nnodes: {{ n }}"),
    "a variable and one": (one(name="lead") + loop("range(n)"), "n: 2", "nnodes: {{ n + 1 }}"),
    "all but the first": (one(name="lead") + loop("range(1, n)"), "n: 4", "nnodes: {{ n }}"),
    "a sum": (loop("range(a + b)"), "a: 2\n  b: 3", "nnodes: {{ a + 3 }}"),
    "a product is fixed": (loop("range(2 * n)"), "n: 2", "nnodes: 4"),
    "a list is fixed": (loop("hosts"), "hosts: [x, y, z]", "nnodes: 3"),
    "no loop": (one(name="a") + one(name="b"), "n: 2", "nnodes: 2"),
    "one task": (one(), "n: 1", "nnodes: 1"),
    "a variable that is no loop": (loop("range(3)", "image: i{{ n }}\n      command: [torchrun]"), "n: 3", "nnodes: 3"),
    "a range of torchrun": (
        loop("range(n)", "image: i\n      command: [torchrun, --nnodes, '{{ m }}:{{ n }}', a.py]"),
        "n: 4\n  m: 1",
        'nnodes: "{{ m }}:{{ n }}"',
    ),
}


@pytest.mark.parametrize(("tasks", "defaults", "line"), SIZES.values(), ids=SIZES)
def test_the_number_of_nodes_is_found_by_trial(tasks: str, defaults: str, line: str) -> None:
    assert line_of(convert(workflow(tasks, defaults=f"  {defaults}\n"), "f"), "nnodes") == line


VALUES = {
    "expression": ("{{ x }}", "x: 3", '"{{ x }}"'),
    "filter": ("{{ x | upper }}", "x: abc", '"{{ x | upper }}"'),
    "computation": ("{{ x * 2 + y }}", "x: 3\n  y: 1", '"{{ x * 2 + y }}"'),
    "in a text": ("a-{{ x }}-b", "x: 3", '"a-{{ x }}-b"'),
    "without a default": ("{{ z }}", "x: 3", '"{{ z }}"'),
    "of a condition": ("{% if x %}A{% else %}B{% endif %}", "x: true", "A"),
    "truth": ("{{ x }}", "x: true", "'true'"),
    "quoted": ("{{ x | default('a') }}", "x: b", "\"{{ x | default('a') }}\""),
    "raw": ("'{% raw %}{{ y }}{% endraw %}'", "x: 3", "'{{ '{{' }} y }}'"),
    "assigned in the template": ("{% set k = x + 1 %}{{ k }}", "x: 3", "'4'"),
}


@pytest.mark.parametrize(("value", "defaults", "written"), VALUES.values(), ids=VALUES)
def test_expressions_stay_where_they_need_no_loop(value: str, defaults: str, written: str) -> None:
    task = f"image: i\n      command: [torchrun, a.py]\n      environment:\n        V: {value}"
    manifest = convert(workflow(one(task), defaults=f"  {defaults}\n"), "f")
    assert f"- {{name: V, value: {written}}}" in manifest


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("train", "train"),
        ("Train_It.2", "train-it-2"),
        ("7b", "job-7b"),
        ("x" * 80, "x" * 54),
        ("{{ who }}", "{{ who }}"),
    ],
)
def test_names_become_names_of_kubernetes(written: str, name: str) -> None:
    manifest = convert(workflow(one(), defaults="  who: me\n").replace("name: a", f"name: {written}", 1), "f")
    assert line_of(manifest, "name").removeprefix("name: ").strip('"') == name


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("{{ who }}", "{{ who | lower | replace('_', '-') | replace('.', '-') }}"),
        ("Sim_{{ who ~ 1 }}-x", "sim-{{ (who ~ 1) | lower | replace('_', '-') | replace('.', '-') }}-x"),
    ],
)
def test_expressions_in_names_get_filters_if_their_defaults_are_no_names(written: str, name: str) -> None:
    text = workflow(loop("range(n)"), defaults="  who: My_Run\n  n: 2\n").replace("name: a", f"name: {written}", 1)
    manifest = convert(text, "f")
    assert line_of(manifest, "name") == f'name: "{name}"'
    assert line_of(manifest, "nnodes") == "nnodes: {{ n }}"


@pytest.mark.parametrize(
    ("text", "value"), [("30", 30), ("30s", 30), ("5m", 300), ("2h", 7200), ("1d", 86400), ("1h5m", None), ("", None)]
)
def test_times(text: str, value: int | None) -> None:
    assert seconds(text) == value


def task_with(script: str, **fields: Any) -> str:
    files = [{"path": "/run.sh", "contents": script}]
    task = {"name": "t", "image": "i", "command": ["sh", "/run.sh"], "files": files, **fields}
    return workflow("".join(f"    {line}\n" for line in yaml.safe_dump([task]).splitlines()))


TOKENS = {
    "elastic": (
        "torchrun a.py {{host:t}} {{output}}/x {{input:1}} {{ workflow_id }}\n",
        "torchrun a.py ${TORCHRUN_JOB_NAME}-0.${TORCHRUN_JOB_NAME} /outputs/x /inputs/1 ${TORCHRUN_JOB_NAME}\n",
    ),
    "static": (
        "python a.py --offset 0 --size 1 --world_size 1 {{host:t}}\n",
        "python a.py --offset ${RANK_OFFSET} --size 1 --world_size ${WORLD_SIZE} ${MASTER_ADDR}\n",
    ),
    "a task that is not there": ("torchrun a.py {{host:other}}\n", "torchrun a.py other\n"),
}


@pytest.mark.parametrize(("script", "after"), TOKENS.values(), ids=TOKENS)
def test_tokens_become_names_that_the_pods_know(script: str, after: str) -> None:
    assert yaml.safe_load(convert(task_with(script), "f"))["spec"]["files"][0]["content"] == after


def test_the_group_that_trains_is_chosen_and_the_others_are_named() -> None:
    text = workflow(one("image: i\n      command: [echo]", "prepare")) + (
        f"  - name: h\n    tasks:\n{one(name='x')}{one(name='y')}"
    )
    manifest = convert(text, "f")
    assert line_of(manifest, "nnodes") == "nnodes: 2"
    assert "Run the others as Jobs of their own: prepare." in manifest


def test_nothing_unknown_is_dropped_silently() -> None:
    text = workflow(one(f"{TASK}\n      shape: round"), head="  color: red\n", group="    weight: 3\n")
    manifest = convert(text, "f")
    for words in ("groups[0].tasks[0].shape: round", "color: red", "groups[0].weight: 3"):
        assert f"# workflow.{words} is not known, and was left out." in manifest


def test_a_local_script_is_not_read_and_a_comment_says_what_to_check() -> None:
    task = "image: i\n      command: [bash, /run.sh]\n      files:\n      - {path: /run.sh, localpath: run.sh}"
    manifest = convert(workflow(one(task)), "f")
    assert "- {path: /run.sh, localPath: run.sh}" in manifest
    assert "# run.sh was not read. If it starts torchrun, take these options out: --nnodes," in manifest
