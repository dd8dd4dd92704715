"""Templates are rendered in a process with limits; errors name the line and what is wrong there."""

from typing import Any

import pytest

from torchrun_cli.errors import CliError, Exit
from torchrun_cli.template.bounded import Limits, Rendered, render, used_names

TOO_LONG = "the template takes too long; look for a loop without end"
MEMORY = "the template needs too much memory"
COLON = (
    "expected token 'end of print statement', got ':'; tokens of OSMO such as {{host:NAME}} need 'kubectl torchrun "
    "convert'"
)
UNSET = "'zz' is undefined; set it with --set zz=VALUE, or write its value below default-values; "
NO_FILES = "a manifest cannot include other files; write the text here"
ENDLESS = "a macro calls itself without end"
UNCLOSED = (
    "Unexpected end of template. Jinja was looking for the following tags: 'endfor' or 'else'. The innermost block "
    "that needs to be closed is 'for'"
)
RANGE = "Range too big. The sandbox blocks ranges larger than MAX_RANGE (100000)"
UNSAFE = "access to attribute '__class__' of 'str' object is unsafe"
RAW = "if this is the text of a script, write {% raw %} above and {% endraw %} below it, or use localPath"


@pytest.mark.parametrize(
    ("text", "values", "rendered", "lines"),
    [
        ("a: {{ x }}\n", {"x": 1}, "a: 1\n", (1, 2)),
        ("a: {{ x }} {{ y }} {{ z }}", {"x": None, "y": True, "z": [1, None, {"a": "ü"}]},
         'a: null true [1, null, {"a": "\\u00fc"}]', (1,)),
        ("a: {{ x|tojson }}", {"x": 'say "no": #1'}, 'a: "say \\"no\\": #1"', (1,)),
        ("a:\n{% for i in range(n) %}\n- {{ i }}\n  b\n{% endfor %}\nc: 1\n", {"n": 2},
         "a:\n- 0\n  b\n- 1\n  b\nc: 1\n", (1, 3, 4, 3, 4, 6, 7)),
        ("{% if n > 1 %}\na: 1\n{% else %}\na: 2\n{% endif %}\n", {"n": 1}, "a: 2\n", (4, 5)),
        ("{% set half = n // 2 %}\na: {{ half }}:{{ n }}\n", {"n": 4}, "a: 2:4\n", (2, 3)),
        ("{# a\nb #}\na: 1\n", {}, "a: 1\n", (3, 4)),
        ("a: ${#names[@]}\n", {}, "a: ${#names[@]}\n", (1, 2)),
        ("{% raw %}\na: {{host:lead}}\n{% endraw %}\nb: 1\n", {}, "\na: {{host:lead}}\nb: 1\n", (1, 2, 4, 5)),
        ("{% macro f(x) %}\n-{{ x }}\n{% endmacro %}\na: [{{ f(1)|length }}]\n", {}, "a: [3]\n", (4, 5)),
        ("{% set b %}\nx\n{% endset %}\na: {{ b|length }}\n", {}, "a: 2\n", (4, 5)),
        ("a: {{ x is defined }} {{ x|default(3) }}\n", {}, "a: false 3\n", (1, 2)),
        ("a: {{ x }}\nb: 1", {"x": "1\n2\n3"}, "a: 1\n2\n3\nb: 1", (1, 1, 1, 2)),
    ],
)  # fmt: skip
def test_templates(text: str, values: dict[str, Any], rendered: str, lines: tuple[int, ...]) -> None:
    assert render(text, "f", values) == Rendered(rendered, lines)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("a\nb: {{ max_node }}", "f:2: 'max_node' is undefined; did you mean 'max_nodes'?"),
        ("a\nb: {{ zz }}", f"f:2: {UNSET}{RAW}"),
        ("a\nb: {{ r.cp }}", "f:2: 'dict object' has no attribute 'cp'"),
        ("a\nb: {{ x", "f:2: unexpected end of template, expected 'end of print statement'"),
        ("a: {{host:lead}}", f"f:1: {COLON}"),
        ("{% for i in [1] %}\na", f"f:2: {UNCLOSED}"),
        ("a: {{ 1|nothing }}", "f:1: No filter named 'nothing'"),
        ("a\n{{ 1 / 0 }}", "f:2: division by zero"),
        ("a\n{% include '/etc/passwd' %}", f"f:2: {NO_FILES}"),
        ("{% import '/etc/passwd' as x %}", f"f:1: {NO_FILES}"),
        ("{% from '/etc/passwd' import x %}", f"f:1: {NO_FILES}"),
        ("{% extends '/etc/passwd' %}", f"f:1: {NO_FILES}"),
        ("a\n{{ ''.__class__.__mro__[1].__subclasses__() }}", f"f:2: {UNSAFE}"),
        ("a\n{{ r.update({}) }}", "f:2: access to attribute 'update' of 'dict' object is unsafe"),
        ("a\n{% for i in range(10 ** 9) %}{% endfor %}", f"f:2: {RANGE}"),
        ("a\n{% for i in range(9999) %}\n{% for j in range(99999) %}{% endfor %}{% endfor %}", f"f:3: {TOO_LONG}"),
        ("{% set n = namespace(x='x') %}{% for i in range(90) %}\n{% set n.x=n.x~n.x %}{% endfor %}", f"f:2: {MEMORY}"),
        ("{% macro f(x) %}{{ f(x) }}{% endmacro %}\n{{ f(1) }}", f"f:1: {ENDLESS}"),
        ("{% macro f(n) %}{% if n %}{{f(n-1)}}{{f(n-1)}}{% endif %}{% endmacro %}\n{{ f(60) }}", f"f:1: {TOO_LONG}"),
        ("a\n{{ 'x' * 10 ** 12 }}", f"f:2: {MEMORY}"),
        ("a\n{{ '%1000000000000d' % 1 }}", f"f:2: {MEMORY}"),
        ("a\n{{ 'x'|center(10 ** 12) }}", f"f:2: {MEMORY}"),
        ("{% for i in range(9999) %}{{ 'x' * 9999 }}{% endfor %}", "f: the template writes more than 8 MiB"),
        (f"{{{{ {'(' * 5000}1{')' * 5000} }}}}", "f: the template is nested too deeply"),
    ],
    ids=lambda value: value[:40],
)  # fmt: skip
def test_bad_templates(text: str, error: str) -> None:
    with pytest.raises(CliError) as raised:
        render(text, "f", {"max_nodes": 4, "r": {"cpu": 1}}, Limits(1 if TOO_LONG in error else 20, bytes=2**28))
    assert (raised.value.message, raised.value.exit_code) == (error, Exit.USAGE)


def test_what_no_signal_interrupts_is_killed() -> None:
    with pytest.raises(CliError) as raised:
        render("{{ 9 ** (9 ** 9) }}", "f", {}, Limits(seconds=0.2))
    assert raised.value.message == "f: the template takes too long; look for a very large number or text"


def test_the_names_that_a_template_needs() -> None:
    text = "{{ a }}{% set b = c %}{{ b }}{% for i in range(d) %}{{ i }}{% endfor %}{{ e is defined }}"
    assert used_names(text, "f") == ["a", "c", "d", "e"]
