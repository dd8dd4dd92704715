"""What is generated from the models is up to date, and small enough for the API server and for Helm."""

import gzip
import json
import subprocess
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[3]
CRD = ROOT / "crds" / "torchrun.dev_torchrunjobs.yaml"


def test_generated_files_are_up_to_date() -> None:
    generator = ROOT / "operator" / "codegen" / "generate.py"
    done = subprocess.run([sys.executable, str(generator), "--check"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_chart_has_the_same_crd() -> None:
    assert (ROOT / "charts" / "torchrun-operator" / "files" / CRD.name).read_text() == CRD.read_text()


def test_crd_is_small() -> None:
    content = CRD.read_bytes()
    # kubectl apply keeps the object in an annotation, as JSON without blanks; all annotations have 256 KiB.
    assert len(json.dumps(yaml.safe_load(content), separators=(",", ":"))) < 256 * 1024
    assert len(gzip.compress(content)) < 64 * 1024


def test_every_field_of_ours_has_a_description() -> None:
    version = yaml.safe_load(CRD.read_text())["spec"]["versions"][0]
    bare = list(_without_description(version["schema"]["openAPIV3Schema"], ""))
    assert bare == [".metadata", ".metadata.name"]


def _without_description(node: dict[str, object], path: str) -> list[str]:
    found = [] if "description" in node else [path]
    templates = (".spec.template", ".spec.rendezvous.template", ".spec.snapshots.volumeClaimTemplate")
    if path in (*templates, ".spec.lead.env", ".spec.lead.resources"):
        return found
    inner = node.get("items", node)
    assert isinstance(inner, dict)
    for name, child in inner.get("properties", {}).items():
        found += _without_description(child, f"{path}.{name}")
    return found
