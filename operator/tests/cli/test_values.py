"""Values of templates: defaults in the manifest, files of values, and --set."""

from typing import Any

import pytest

from torchrun_cli.errors import CliError, Exit
from torchrun_cli.template.values import Setting, merge, parse_set, read_values, split_defaults

NOT_YAML = "this is not YAML:"
NO_TEMPLATE = "a value is not a template; compute it where it is used, or with {% set NAME = … %} above the job"
NO_NAME = "is not a name that templates can use"
TWICE = "default-values is already written above; keep one of them"
NO_CONTENT = "expected the node content, but found ']'"
RESERVED = "is a word of the template language; choose another name"
DEFAULTS: dict[str, Any] = {"max_nodes": 4, "resources": {"cpu": 1}, "names": ["a"], "nothing": None}


@pytest.mark.parametrize(
    ("text", "rest", "values"),
    [
        ("kind: X\n", "kind: X\n", {}),
        ("default-values:\nkind: X\n", "\nkind: X\n", {}),
        ("default-values: {a: 1}\nkind: X", "\nkind: X", {"a": 1}),
        ("kind: X\ndefault-values:\n  a: 1", "kind: X\n\n", {"a": 1}),
        (
            "# A job.\ndefault-values:\n  a: 1e-3  # rate\n\n  b: {c: [1, null]}\n# names\n  d: 2:4\nname: {{ a }}\n",
            "# A job.\n\n\n\n\n\n\nname: {{ a }}\n",
            {"a": 0.001, "b": {"c": [1, None]}, "d": "2:4"},
        ),
        ("spec:\n  default-values:\n    a: 1\n", "spec:\n  default-values:\n    a: 1\n", {}),
    ],
)
def test_defaults_are_taken_out_and_lines_stay(text: str, rest: str, values: dict[str, Any]) -> None:
    assert split_defaults(text, "f") == (rest, values)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("default-values: [1]", "f:1: default-values: write NAME: VALUE below it"),
        ("\ndefault-values:\n  n-gpus: 1", f"f:3: default-values: 'n-gpus' {NO_NAME}; write 'n_gpus'"),
        ("default-values: {for: 1}", f"f:1: default-values: 'for' {RESERVED}"),
        ("default-values: {1: 1}", "f:1: default-values: 1 is not a name that templates can use; write '1'"),
        (
            "default-values:\n  a: '{{ b }}'\n  b: '{{ a }}'",
            f"f:2: default-values.a: {NO_TEMPLATE}",
        ),
        (
            "default-values:\n  a:\n    b: [x, '{% if c %}']",
            f"f:2: default-values.a.b[1]: {NO_TEMPLATE}",
        ),
        ("default-values: {a: 1}\ndefault-values: {}\n", f"f:2: {TWICE}"),
        ("default-values:\n  a: 1\n  a: 2\n", "f:3: the key 'a' is already in line 2; remove one"),
        ("default-values:\n  a: &a [*a]\n", "f:2: this value contains itself; remove the alias"),
    ],
)  # fmt: skip
def test_bad_defaults(text: str, error: str) -> None:
    with pytest.raises(CliError) as raised:
        split_defaults(text, "f")
    assert (raised.value.message, raised.value.exit_code) == (error, Exit.USAGE)


@pytest.mark.parametrize(
    ("assignments", "changed"),
    [
        ([], {}),
        (["max_nodes=3"], {"max_nodes": 3}),
        (["max_nodes=3", "max_nodes=5"], {"max_nodes": 5}),
        (["max_nodes=2:4"], {"max_nodes": "2:4"}),
        (["max_nodes=1e-3"], {"max_nodes": 0.001}),
        (["max_nodes='3'"], {"max_nodes": "3"}),
        (["max_nodes="], {"max_nodes": ""}),
        (["max_nodes=null"], {"max_nodes": None}),
        (["max_nodes=a=b"], {"max_nodes": "a=b"}),
        (["max_nodes=a b, c"], {"max_nodes": "a b, c"}),
        (["max_nodes=no"], {"max_nodes": False}),
        (["names=[b, 2, null]"], {"names": ["b", 2, None]}),
        (["resources={gpu: 1}"], {"resources": {"gpu": 1}}),
        (["resources.cpu=2m"], {"resources": {"cpu": "2m"}}),
        (["nothing.x.y=1"], {"nothing": {"x": {"y": 1}}}),
        (["image=x"], {"image": "x"}),
    ],
)
def test_set(assignments: list[str], changed: dict[str, Any]) -> None:
    settings = [parse_set(each) for each in assignments]
    assert merge(DEFAULTS, settings, lambda: ["image"]) == {**DEFAULTS, **changed}
    assert DEFAULTS["resources"] == {"cpu": 1}


def test_set_string_keeps_the_text() -> None:
    settings = [parse_set(f"max_nodes={text}", "--set-string") for text in ("3", "null", "[1", "")]
    assert [setting.value for setting in settings] == ["3", "null", "[1", ""]


@pytest.mark.parametrize(
    ("assignment", "error"),
    [
        ("max_nodes", "--set max_nodes: write NAME=VALUE"),
        ("=3", "--set =3: write NAME=VALUE"),
        ("max_node=3", "--set max_node=3: the manifest has no value 'max_node'; did you mean 'max_nodes'?"),
        ("zz=3", "--set zz=3: the manifest has no value 'zz'; it has image, max_nodes, names, nothing, resources"),
        ("resources.cp=1", "--set resources.cp=1: resources has no 'cp'; did you mean 'cpu'?"),
        ("resources.zz=1", "--set resources.zz=1: resources has no 'zz'; it has cpu"),
        ("names.x=1", "--set names.x=1: names is ['a'], which has no parts; set names itself"),
        ("max-nodes=3", "--set max-nodes=3: 'max-nodes' is not a name that templates can use; write 'max_nodes'"),
        ("max_nodes=]", f"--set max_nodes=]:1: {NOT_YAML} while parsing a block node, {NO_CONTENT}"),
        ("names=&a [*a]", "--set names=&a [*a]:1: this value contains itself; remove the alias"),
    ],
)
def test_bad_set(assignment: str, error: str) -> None:
    with pytest.raises(CliError) as raised:
        merge(DEFAULTS, [parse_set(assignment)], lambda: ["image"])
    assert (raised.value.message, raised.value.exit_code) == (error, Exit.USAGE)


def test_a_manifest_without_values_has_nothing_to_set() -> None:
    with pytest.raises(CliError) as raised:
        merge({}, [parse_set("a=1")], list)
    assert raised.value.message == "--set a=1: the manifest has no value 'a': it has no default-values"


def test_the_template_is_asked_only_for_names_without_a_default() -> None:
    def used() -> list[str]:
        raise AssertionError("all names have defaults")

    assert merge({"a": 1}, [parse_set("a=2")], used) == {"a": 2}


@pytest.mark.parametrize(
    ("text", "settings"),
    [
        ("", []),
        ("a: 1\nb: {c: x}", [Setting(("a",), 1, "v.yaml"), Setting(("b",), {"c": "x"}, "v.yaml")]),
    ],
)
def test_files_of_values(text: str, settings: list[Setting]) -> None:
    assert read_values(text, "v.yaml") == settings


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("[1]", "v.yaml: write NAME: VALUE, one per line"),
        ("a-b: 1", "v.yaml: 'a-b' is not a name that templates can use; write 'a_b'"),
        ("a: '{{ x }}'", f"v.yaml: a: {NO_TEMPLATE}"),
        ("a: 1\n---\nb: 1", "v.yaml:3: a second document begins here; write one"),
    ],
)  # fmt: skip
def test_bad_files_of_values(text: str, error: str) -> None:
    with pytest.raises(CliError) as raised:
        read_values(text, "v.yaml")
    assert raised.value.message == error
