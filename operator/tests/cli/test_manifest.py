"""From the text of a user to a job: values, local files, names. Errors name the line in the user's file."""

import os
from pathlib import Path
from typing import Any

import pytest

from torchrun_cli.errors import CliError, Exit
from torchrun_cli.template.local import read_input, read_local
from torchrun_cli.template.manifest import Naming, Source, load
from torchrun_cli.template.values import parse_set

TEMPLATE = """\
# A job.
default-values:
  max_nodes: 4
  image: train:1
kind: TorchrunJob
metadata: {name: digits}
spec:
  nnodes: 2:{{ max_nodes }}
  files:
{% for name in ["train", "data"] %}
  - path: /workspace/{{ name }}.py
    localPath: {{ name }}.py
{% endfor %}
  command: [{{ image }}]
status: {}
"""
LOCAL = "spec.files[0].localPath"
GONE = "{place}/tarin.py does not exist; did you mean 'train.py'?"
BOTH = "write either localPath or content, not both"
TWICE = "the key 'a' is already in line 2; remove one"
OUTSIDE = "is outside of {place}; move it there, or name another directory with --local-dir"


def directory(tmp_path: Path, **files: str | bytes) -> Path:
    for name, content in files.items():
        path = tmp_path / "job" / f"{name}.py"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return tmp_path / "job"


def source(text: str, place: Path | None = None) -> Source:
    return Source(text, "job.yaml", place)


def test_a_template_becomes_a_job(tmp_path: Path) -> None:
    place = directory(tmp_path, train="print('{{ no template }}')\n", data="\ufeffa\r\nb\r\n")
    manifest = load(source(TEMPLATE.replace("\n", "\r\n"), place), [parse_set("max_nodes=8")])
    assert manifest.job == {
        "kind": "TorchrunJob",
        "metadata": {"name": "digits"},
        "spec": {
            "nnodes": "2:8",
            "files": [
                {"path": "/workspace/train.py", "content": "print('{{ no template }}')\n"},
                {"path": "/workspace/data.py", "content": "a\nb\n"},
            ],
            "command": ["train:1"],
        },
    }
    assert manifest.notes == ["data.py: line ends of Windows become those of Linux"]
    assert [manifest.line(path) for path in ("spec.nnodes", "spec.files[1].path", "spec.command")] == [8, 11, 14]


@pytest.mark.parametrize(
    ("metadata", "naming", "expected"),
    [
        ("{name: a}", Naming(), {"name": "a"}),
        ("{name: a, labels: {x: y}}", Naming(name="b"), {"name": "b", "labels": {"x": "y"}}),
        ("{name: a}", Naming(generate_name="b-"), {"generateName": "b-"}),
        ("{generateName: a-}", Naming(name="b"), {"name": "b"}),
        ("", Naming(name="b"), {"name": "b"}),
    ],
)
def test_names(metadata: str, naming: Naming, expected: dict[str, Any]) -> None:
    assert load(source(f"kind: X\nmetadata: {metadata}\n"), naming=naming).job["metadata"] == expected


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("", "job.yaml: there is no job; write apiVersion, kind, metadata and spec"),
        ("default-values: {a: 1}\n", "job.yaml: there is no job; write apiVersion, kind, metadata and spec"),
        ("- a", "job.yaml:1: write a mapping: apiVersion, kind, metadata, spec"),
        ("a: 1\n---\nb: 1\n", "job.yaml:3: a second document begins here; a manifest has one TorchrunJob"),
        ("{% for i in range(2) %}\na: {{ i }}\n{% endfor %}", f"job.yaml:2: {TWICE}"),
        (TEMPLATE.replace("{{ image }}", "{{ imag }}"), "job.yaml:14: 'imag' is undefined; did you mean 'image'?"),
        (TEMPLATE, "job.yaml:12: spec.files[1].localPath: {place}/data.py does not exist"),
        (TEMPLATE.replace("{{ name }}.py", "tarin.py"), f"job.yaml:12: {LOCAL}: {GONE}"),
        ("spec: {files: [{localPath: train.py, content: a}]}", f"job.yaml:1: {LOCAL}: {BOTH}"),
        ("spec: {files: [{localPath: [a]}]}", "job.yaml:1: spec.files[0].localPath: write the path of a file"),
        ("spec: {files: [{localPath: }]}", "job.yaml:1: spec.files[0].localPath: write the path of a file"),
        ("spec:\n  files:\n  - {localPath: ../secret.py}", f"job.yaml:3: {LOCAL}: ../secret.py {OUTSIDE}"),
    ],
    ids=lambda value: value[:40],
)  # fmt: skip
def test_bad_manifests(tmp_path: Path, text: str, error: str) -> None:
    place = directory(tmp_path, train="a")
    with pytest.raises(CliError) as raised:
        load(source(text, place))
    assert (raised.value.message, raised.value.exit_code) == (error.replace("{place}", str(place)), Exit.USAGE)


def test_local_files_need_a_directory() -> None:
    with pytest.raises(CliError) as raised:
        load(source("spec: {files: [{path: /a, localPath: a.py}]}"))
    assert raised.value.message == "job.yaml:1: spec.files[0].localPath: name the directory of a.py with --local-dir"


def test_files_are_limited_together() -> None:
    files = "".join(f"  - {{path: /{name}, content: {name * 400_000}}}\n" for name in "abc")
    with pytest.raises(CliError) as raised:
        load(source(f"kind: X\nspec:\n  files:\n{files}"))
    assert raised.value.message == (
        "job.yaml:3: spec.files: all files together have 1,172 KiB, more than 900 KiB; the largest: /a (391 KiB), "
        "/b (391 KiB), /c (391 KiB); put large files into the image or on a volume"
    )


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (b"x" * 901 * 1024, "f.py has 901 KiB, more than 900 KiB; put large files into the image or on a volume"),
        (b"x" * 10 * 2**20, "f.py has 10,240 KiB, more than 900 KiB; put large files into the image or on a volume"),
        (b"\x7fELF\xff", "f.py is not a text: byte 4 is not UTF-8; put binary files into the image or on a volume"),
        (b"abc\0", "f.py is not a text: byte 3 is 0; put binary files into the image or on a volume"),
    ],
    ids=["901 KiB", "10 MiB", "no UTF-8", "a zero"],
)
def test_files_that_are_no_small_texts(tmp_path: Path, content: bytes, error: str) -> None:
    with pytest.raises(CliError) as raised:
        read_local(directory(tmp_path, f=content), "f.py", "files[0]")
    assert raised.value.message == f"files[0]: {error}"


@pytest.mark.parametrize(
    "name", ["ü x.py", "sub/f", "./sub/../sub/f", "link", "-n", "a;b|c&d*?", "'\"", "a\nb", "{{ x }}"]
)
def test_every_name_of_a_file_inside_the_directory(tmp_path: Path, name: str) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "f").write_text("text")
    (tmp_path / "link").symlink_to("sub/f")
    if "/" not in name and name != "link":
        (tmp_path / name).write_text("text")
    assert read_local(tmp_path, name, "files[0]") == ("text", [])
    assert read_local(tmp_path, str(tmp_path / name), "files[0]") == ("text", [])


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("/etc/passwd", "/etc/passwd is outside of {place}"),
        ("../f", "../f is outside of {place}"),
        ("out", "out is outside of {place}"),
        ("outdir/f", "outdir/f is outside of {place}"),
        ("~/f", "~/f is outside of {place}"),
        ("/dev/zero", "/dev/zero is outside of {place}"),
        ("loop", "loop cannot be read: Symlink loop from "),
        ("gone", "{place}/gone does not exist"),
        ("dangling", "{place}/dangling does not exist"),
        ("pipe", "pipe is not a regular file"),
        ("sub", "sub cannot be read: Is a directory"),
        ("sub/f/g", "{place}/sub/f/g does not exist"),
        ("a\0b", "write the path of a file"),
        ("n" * 300, "{name} cannot be read: File name too long"),
    ],
)
def test_what_is_no_file_inside_the_directory(tmp_path: Path, name: str, error: str) -> None:
    place = tmp_path / "job"
    (place / "sub").mkdir(parents=True)
    (place / "sub" / "f").write_text("text")
    (tmp_path / "f").write_text("secret")
    (place / "out").symlink_to("../f")
    (place / "outdir").symlink_to("..")
    (place / "loop").symlink_to("loop")
    (place / "dangling").symlink_to("nothing")
    os.mkfifo(place / "pipe")
    with pytest.raises(CliError) as raised:
        read_local(place, name, "files[0]")
    assert raised.value.message.startswith(f"files[0]: {error.format(place=place, name=name)}")


def test_the_manifest_itself(tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text("a: 1\r\n")
    assert read_input(tmp_path / "job.yaml", 100) == "a: 1\n"
    for name, most, words in [
        ("jab.yaml", 100, f"{tmp_path}/jab.yaml does not exist; did you mean '{tmp_path}/job.yaml'?"),
        (".", 100, f"{tmp_path} is a directory; name a file in it"),
        ("job.yaml", 2, "job.yaml has 0 KiB, more than 0 KiB"),
    ]:
        with pytest.raises(CliError) as raised:
            read_input(tmp_path / name, most)
        assert words in raised.value.message
