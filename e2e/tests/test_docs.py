"""The documentation is correct: links resolve, commands and reasons exist."""

import importlib.util
import re
import tomllib
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from support.clusters import ROOT
from torchrun_operator.api.conditions import Reason
from torchrun_operator.api.v1alpha1 import job_of
from torchrun_operator.render.validation import problems

_PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), ROOT / "trainer" / "README.md"])
_JOBS = [
    (page.relative_to(ROOT), document)
    for page in _PAGES
    for block in re.findall(r"^```yaml\n(.*?)^```$", page.read_text(), re.DOTALL | re.MULTILINE)
    for document in yaml.safe_load_all(block)
    if isinstance(document, dict) and document.get("kind") == "TorchrunJob"
]


@pytest.mark.parametrize("page", _PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_a_file_or_a_heading(page: Path) -> None:
    text = page.read_text()
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" in target:
            continue
        path, _, heading = target.partition("#")
        file = page.parent / path if path else page
        assert file.exists(), f"{target} does not exist"
        if heading:
            assert heading in _headings(file), f"{target}: no such heading"


def test_every_reason_is_explained() -> None:
    text = (ROOT / "docs" / "troubleshooting.md").read_text()
    assert [reason for reason in Reason if f"`{reason}`" not in text] == []


def test_make_targets_exist() -> None:
    targets = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    said = {
        (page.name, target)
        for page in _PAGES
        for words in re.findall(r"(?:^|`)make ([a-z0-9 -]+)", page.read_text(), re.MULTILINE)
        for target in words.split("  ")[0].split()
    }
    assert [(page, target) for page, target in sorted(said) if target not in targets] == []


@pytest.mark.parametrize(("page", "document"), _JOBS, ids=[str(page) for page, _ in _JOBS])
def test_jobs_can_run(page: Path, document: dict[str, Any]) -> None:
    """A local file is read when the job is submitted, by kubectl torchrun."""
    for file in document["spec"].get("files", ()):
        if file.pop("localPath", None) is not None:
            file["content"] = "what the file contains"
    metadata = {"name": "job", "namespace": "default", "uid": "u", **document["metadata"]}
    assert problems(job_of({**document, "metadata": metadata})) == []


@pytest.mark.parametrize(
    ("path", "text", "found"),
    [
        ("docs/a.md", "Pods are made a-new.".replace("-", ""), ["a-new".replace("-", "")]),
        ("docs/a.md", "The machine is down, and the Machines too.", ["machine"]),
        ("docs/a.md", "A state machine, `machine: m`, [m](machine.md) and https://machine.org", []),
        ("docs/a.md", "```\na machine\n```\na machine", ["machine"]),
        ("docs/a.md", "<!-- words: off -->\nmachine\n<!-- words: on -->", []),
        ("docs/local-cluster.md", "Each machine has a network.", []),
        ("crds/a.yaml", "machine:\n  description: The machine of the pod.", ["machine"]),
        ("e2e/demo/story.py", "# The machine is stopped.", []),
        ("e2e/demo/story.py", "# It waits for-ever.".replace("-", " "), ["for-ever".replace("-", " ")]),
        ("operator/src/a.py", "# Elsewhere, the machine may shall.", []),
    ],
)
def test_words_are_found(path: str, text: str, found: list[str]) -> None:
    words, rules = _words()
    assert [finding.word for finding in words.find_words(path, text, rules)] == found


def _words() -> tuple[ModuleType, dict[str, Any]]:
    program = ROOT / "docs" / "style" / "words.py"
    spec = importlib.util.spec_from_file_location("words", program)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module, tomllib.loads(program.with_suffix(".toml").read_text())


def _headings(file: Path) -> set[str]:
    titles = re.findall(r"^#+ (.+)$", file.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}
