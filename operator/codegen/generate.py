"""Generates files: the CRD, its copy in the chart and its reference from the models, and a page from the decisions.

Run as `python operator/codegen/generate.py`; with --check it writes nothing and fails when a file is stale.
"""

import argparse
import sys
from pathlib import Path

import yaml
from cli_reference import cli_reference
from cli_schema import cli_schema
from coming_from import coming_from
from crd import crd
from reference import reference
from walk import walk

_ROOT = Path(__file__).resolve().parents[2]
_HEAD = "# Generated from operator/src/torchrun_operator/api by operator/codegen/generate.py; do not edit.\n"
_NAME = "torchrun.dev_torchrunjobs.yaml"


_SAMPLES = {
    "accelerate/train.py": "accelerate_digits/train.py",
    "elastic/train.py": "digits/train.py",
    "elastic-torchrun/train.py": "digits/train.py",
    "fault-tolerant/train.py": "digits/train.py",
    "fsdp2/train.py": "fsdp2_digits/train.py",
    "hf-trainer/train.py": "hf_trainer/train.py",
    "lightning/train.py": "lightning_digits/train.py",
    "multi-node/train.py": "multi_node/train.py",
    "plain-ddp/train.py": "plain_ddp/after.py",
    "standalone/train.py": "digits/train.py",
    "train-dist/train_dist.py": "train_dist/train_dist.py",
}
"""The scripts of samples, and the examples that they are copies of."""


class _Dumper(yaml.SafeDumper):
    """A YAML dumper without anchors, which are hard to read."""

    def ignore_aliases(self, data: object) -> bool:
        """Never use anchors."""
        return True


def generated() -> dict[Path, str]:
    """Return the content of every generated file."""
    document = _HEAD + yaml.dump(crd(), Dumper=_Dumper, sort_keys=False, width=120)
    return {
        _ROOT / "crds" / _NAME: document,
        _ROOT / "charts" / "torchrun-operator" / "files" / _NAME: document,
        _ROOT / "operator" / "src" / "torchrun_cli" / "checking" / "schema.json": cli_schema(),
        _ROOT / "docs" / "reference" / "torchrunjob.md": reference(),
        _ROOT / "docs" / "concepts" / "one-pass.md": walk(),
        **coming_from(),
        _ROOT / "docs" / "reference" / "cli.md": cli_reference(),
        **_scripts(),
    }


def _scripts() -> dict[Path, str]:
    """Return the scripts of samples: copies of examples, because the package must have them."""
    head = "# Generated from e2e/examples/{} by operator/codegen/generate.py; do not edit.\n"
    samples = _ROOT / "operator" / "src" / "torchrun_cli" / "samples"
    examples = _ROOT / "e2e" / "examples"
    return {samples / copy: head.format(script) + (examples / script).read_text() for copy, script in _SAMPLES.items()}


def main() -> int:
    """Write or check the files. Returns 1 if the check finds a stale file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--check", action="store_true", help="write nothing, fail when a file is stale")
    check = parser.parse_args().check
    stale = [path for path, text in generated().items() if not path.exists() or path.read_text() != text]
    for path in stale:
        if check:
            sys.stderr.write(f"{path.relative_to(_ROOT)} is stale: run python operator/codegen/generate.py\n")
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(generated()[path])
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
