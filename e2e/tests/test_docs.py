"""What the documentation says can be followed: links lead somewhere, commands and reasons exist."""

import re
from pathlib import Path

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
        assert file.exists(), f"{target} is not there"
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
def test_jobs_can_run(page: Path, document: dict[str, object]) -> None:
    metadata = {"name": "job", "namespace": "default", "uid": "u", **document["metadata"]}  # type: ignore[dict-item]
    assert problems(job_of({**document, "metadata": metadata})) == []


def _headings(file: Path) -> set[str]:
    titles = re.findall(r"^#+ (.+)$", file.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}
