"""The gallery: complete jobs in the package, so that a user without the repository has them."""

from collections.abc import Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Final

from torchrun_cli.errors import CliError, Exit

_HERE: Final = Path(__file__).parent
_MANIFEST: Final = "manifest.yaml"
_README: Final = "README.md"


@dataclass(frozen=True)
class Sample:
    """One job of the gallery: a directory with a manifest, a page about it, and scripts."""

    directory: Path

    @property
    def name(self) -> str:
        """The name by which the user submits it."""
        return self.directory.name

    @property
    def manifest(self) -> Path:
        """The manifest, a template."""
        return self.directory / _MANIFEST

    @property
    def title(self) -> str:
        """What it shows, in one line: the heading of its page without the name."""
        return self.read(_README).partition("\n")[0].partition(": ")[2]

    def files(self) -> list[str]:
        """Return the names of its files, the manifest first."""
        names = sorted(path.name for path in self.directory.iterdir() if path.suffix in {".py", ".sh", ".md", ".yaml"})
        return sorted(names, key=lambda name: name != _MANIFEST)

    def read(self, name: str) -> str:
        """Return the text of a file. Raises CliError if the sample has none of that name."""
        if name not in self.files():
            raise CliError(f"{self.name} has no file {name!r}; it has {', '.join(self.files())}", Exit.NOT_FOUND)
        return (self.directory / name).read_text(encoding="utf-8")


def every() -> list[Sample]:
    """Return all samples, by name."""
    return sorted(_found(), key=lambda sample: sample.name)


def find(name: str) -> Sample:
    """Return a sample. Raises CliError with the nearest name if there is none."""
    samples = {sample.name: sample for sample in _found()}
    if name in samples:
        return samples[name]
    nearest = get_close_matches(name, samples, n=1)
    hint = f"did you mean {nearest[0]!r}?" if nearest else "'kubectl torchrun samples list' lists them"
    raise CliError(f"there is no sample {name!r}; {hint}", Exit.NOT_FOUND)


def _found() -> Iterator[Sample]:
    return (Sample(path.parent) for path in _HERE.glob(f"*/{_MANIFEST}"))
