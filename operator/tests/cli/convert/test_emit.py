"""Writing YAML: it reads back as it was, and comments stand where they belong."""

from typing import Any

import pytest

from torchrun_cli.convert.emit import Plain, one_line, write
from torchrun_cli.template.reading import Origin, read_one

VALUES: dict[str, dict[str, Any]] = {
    "scalars": {"a": 1, "b": 1.5, "c": True, "d": None, "e": "text"},
    "words that other types have": {"a": "yes", "b": "1e3", "c": "0o7", "d": "2:4", "e": "null", "f": "", "g": "y"},
    "special characters": {"a": "x: y", "b": "- a", "c": "# a", "d": "{a}", "e": "'\"", "f": "*a", "g": "a\\b é😀"},
    "lists": {"a": [], "b": ["x", "y, z", "[1]"], "c": [["a"], ["b", {"c": 1}]], "d": [{"a": [1, 2], "b": {"c": "d"}}]},
    "mappings": {"a": {}, "b": {"c": {"d": {"e": "f"}}}, "x.y/z": {"1": "2"}},
    "texts": {"a": "one\ntwo\n", "b": "one\ntwo", "c": "one\n\n\n", "d": "\n one\n", "e": "  in\nout\n", "f": "\n"},
    "texts that no block holds": {"a": "a\tb\n\tc\n", "b": "bell\x07\nx", "c": "a\r\nb\r\n", "d": "x\u2028\ny"},
    "texts in lists": {"a": ["-c", "one\ntwo\n"], "b": [{"c": "one\ntwo\n", "d": 1}]},
    "trailing blanks": {"a": "x \ny  \n", "b": " x "},
    "long": {"a": "word " * 60, "b": [f"word-{n}" for n in range(40)], "c": {f"k{n}": n for n in range(30)}},
}  # fmt: skip


@pytest.mark.parametrize("value", VALUES.values(), ids=VALUES)
def test_values_read_back_as_they_were(value: dict[str, Any]) -> None:
    assert read_one(write(value), Origin("f")) == value


def test_comments_stand_above_their_fields_or_where_they_would_be() -> None:
    value = {
        "metadata": {"name": "a"},
        "spec": {"files": [{"path": "/a"}, {"path": "/b"}], "env": {}, "size": Plain("{{ n }}")},
    }
    notes = [
        (("metadata",), "above a mapping"),
        (("metadata", "labels"), "a field that is not there"),
        (("spec", "files", 1), "above an item"),
        (("spec", "files", 1, "mode"), "inside of an item"),
        (("spec", "files", 7), "after the items"),
        (("spec", "env", "A"), "beside an empty mapping"),
        (("spec", "size"), "twice"),
        (("spec", "size"), "twice"),
        (("status", "a"), "at the end"),
    ]
    assert write(value, notes) == (
        "# above a mapping\n"
        "metadata:\n"
        "  name: a\n"
        "  # a field that is not there\n"
        "spec:\n"
        "  files:\n"
        "  - {path: /a}\n"
        "  # above an item\n"
        "  - path: /b\n"
        "    # inside of an item\n"
        "  # after the items\n"
        "  env: {}\n"
        "  # twice\n"
        "  size: {{ n }}\n"
        "  # beside an empty mapping\n"
        "# at the end\n"
    )


def test_long_comments_are_wrapped_and_never_end_one() -> None:
    text = write({"a": {"b": 1}}, [(("a", "b"), f"{'word ' * 40}\nkind: Pod")])
    lines = text.splitlines()
    assert [line for line in lines if len(line) > 120] == []
    assert [line for line in lines if not line.lstrip().startswith("#")] == ["a:", "  b: 1"]


def test_values_on_one_line_for_comments() -> None:
    assert one_line({"a": [1, Plain("x")], "b": "one, two"}) == "{a: [1, x], b: 'one, two'}"
