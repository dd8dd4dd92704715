"""What builds and images download is pinned: by digest or by hash."""

import re
from pathlib import Path

import pytest

from support.clusters import ROOT

DOCKERFILES = ("operator/Dockerfile", "trainer/Dockerfile", "transfer/Dockerfile")
LISTS = sorted((ROOT / "tools").glob("*.txt"))


@pytest.mark.parametrize("path", DOCKERFILES)
def test_base_images_have_digests_and_packages_hashes(path: str) -> None:
    text = (ROOT / path).read_text()
    defaults = dict(re.findall(r"^ARG (\w+_IMAGE)=(\S+)$", text, re.MULTILINE))
    stages = set(re.findall(r" AS (\w+)$", text, re.MULTILINE))
    bases = set(re.findall(r"^FROM (\S+)", text, re.MULTILINE)) - stages
    assert bases == {f"${{{name}}}" for name in defaults}
    assert [image for image in defaults.values() if not re.search(r"@sha256:[0-9a-f]{64}$", image)] == []
    installs = [
        line for line in re.sub(r"\\\n", " ", text).splitlines() if re.search(r"\b(pip install|uv build) ", line)
    ]
    local = re.compile(r"--no-index|--no-deps /tmp/dist")
    assert installs
    assert [line for line in installs if "--require-hashes" not in line and not local.search(line)] == []


@pytest.mark.parametrize("path", LISTS, ids=lambda path: path.name)
def test_each_tool_has_hashes(path: Path) -> None:
    entries = re.split(r"\n(?=\S)", path.read_text().strip())
    assert [
        entry for entry in entries if not re.fullmatch(r"[\w.-]+==\S+( \\\n    --hash=sha256:[0-9a-f]{64})+", entry)
    ] == []
