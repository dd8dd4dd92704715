"""YAML is read as the API server reads it, with limits, and written so that every parser reads the same."""

from typing import Any

import pytest
import yaml

from torchrun_cli.errors import CliError, Exit
from torchrun_cli.template.reading import Origin, read_one, read_yaml
from torchrun_cli.template.writing import to_json, to_yaml

NOT_YAML = "this is not YAML:"
TAB = "found character '\\t' that cannot start any token"
TOO_MUCH = "this is more than 200000 values or 32 MiB, aliases included; write less"
BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 9)
)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2:4", "2:4"),
        ("1e-3", 0.001),
        ("1.5", 1.5),
        (".5", 0.5),
        ("12", 12),
        ("-5", -5),
        ("+5", 5),
        ("1_000", 1000),
        ("0o14", 12),
        ("014", 12),
        ("08", 8),
        ("0x1f", 31),
        ("yes", True),
        ("Off", False),
        ("true", True),
        ("y", "y"),
        ("2020-01-01", "2020-01-01"),
        ("null", None),
        ("~", None),
        ("=", "="),
        ("<<", "<<"),
        ('"12"', "12"),
        ("!!str 12", "12"),
        ("[a, 2, null]", ["a", 2, None]),
        ("{<<: {a: 1, b: 2}, b: 3}", {"a": 1, "b": 3}),
        ("", None),
        ("# nothing", None),
        ("a: &x {b: 1}\nc: *x", {"a": {"b": 1}, "c": {"b": 1}}),
    ],
)
def test_types(text: str, value: Any) -> None:
    read = read_one(text, Origin("f"))
    assert (read, type(read)) == (value, type(value))


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("a: 1\n}", f"f:2: {NOT_YAML} while parsing a block mapping, expected <block end>, but found '}}'"),
        ("a: 1\n\tb: 2", f"f:2: {NOT_YAML} while scanning for the next token, {TAB}"),
        ("a: 1\nb: 2\na: 3", "f:3: the key 'a' is already in line 1; remove one"),
        ("a: {{ x }}", "f:1: a key must be a word, not a list or a mapping; quote {{ }} at the start"),
        ("a: 1\n---\nb: 1", "f:3: a second document begins here; write one"),
        ("a: 1\nb: \x00", "f:2: the character U+0000 is not allowed in YAML"),
        ("a: .inf", "f:1: .inf is not a number in JSON; write it in quotes"),
        ("a: !!int x", "f:1: 'x' is not a number"),
        ("a: !!python/object:os.system x", "f:1: the tag !!python/object:os.system is not allowed; remove it"),
        ("a: !!timestamp 2020-01-01", "f:1: the tag !!timestamp is not allowed; remove it"),
        ("a: !Ref x", "f:1: the tag !Ref is not allowed; remove it"),
        ("a: *b", "f:1: this is not YAML: found undefined alias 'b'"),
        ("a: &a\n- *a", "f:1: this value contains itself; remove the alias"),
        ("a: &a {b: {c: *a}}", "f:1: this value contains itself; remove the alias"),
        (BOMB, f"f:6: {TOO_MUCH}"),
        (f"a: &a {'x' * 70_000}\nb: [{', '.join(['*a'] * 500)}]", f"f:2: {TOO_MUCH}"),
        ("[" * 5000, "f: values are nested too deeply"),
        ("\n".join(f"{' ' * i}a:" for i in range(3000)), "f: values are nested too deeply"),
    ],
    ids=lambda value: value[:30],
)  # fmt: skip
def test_bad_texts(text: str, error: str) -> None:
    with pytest.raises(CliError) as raised:
        read_one(text, Origin("f"))
    assert (raised.value.message, raised.value.exit_code) == (error, Exit.USAGE)


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("", 1),
        ("spec", 2),
        ("spec.nnodes", 3),
        ("spec.nnodes.deeper", 3),
        ("spec.unknown", 2),
        ("spec.files[1].path", 7),
        ("spec.files[1].unknown", 6),
        ("spec.files[9].path", 4),
        ("spec.labels.a.b/c", 9),
        ("unknown", 1),
    ],
)
def test_lines(path: str, line: int) -> None:
    text = "kind: X\nspec:\n  nnodes: 2\n  files:\n  - {path: a}\n  -\n    path: b\n  labels:\n    a.b/c: x\n"
    text = text.replace("  -\n    path", "  - x: 1\n    path")
    assert read_yaml(text, Origin("f"))[0].line(path) == line


def test_lines_of_a_rendered_text_are_those_of_its_template() -> None:
    document = read_yaml("a: 1\nb: 2\nc: 3\n", Origin("f", (1, 5, 9)))[0]
    assert [document.line(name) for name in "abc"] == [1, 5, 9]


@pytest.mark.parametrize(
    "value",
    ["2:4", "1e-3", "1e3", "08", "0o14", "0x1f", "1_0", ".5", "1.", "y", "N", "yes", "null", "~", "", "=", "<<",
     "2020-01-01", "- a", "a: b", " x", "#", "x\ny \n", "a\nb\n", "\n x", "a\r\nb", "é😀", "\t", "\x07", "\u2028",
     1e-05, 1.5, 12, -1, True, None, [], {}, {"a": ["b", {"c": None}]}],
    ids=repr,
)  # fmt: skip
def test_what_is_written_is_read_back_by_all(value: Any) -> None:
    text = to_yaml({"v": value, "w": [value]})
    expected = {"v": value, "w": [value]}
    assert (read_one(text, Origin("f")), yaml.safe_load(text)) == (expected, expected)


def test_texts_of_several_lines_are_blocks() -> None:
    assert to_yaml({"content": "a\n  b\n", "m": 1}) == "content: |\n  a\n    b\nm: 1\n"


def test_json() -> None:
    assert to_json({"ü": None}) == '{\n  "ü": null\n}\n'
