"""Checks the size of files and functions, import cycles, and names of test modules: `python -m support.layout`.

It prints the longest file, the longest function and the number of cycles. Every offender goes to stderr, and the exit
code is then 1. A cycle counts in whatever form its imports are written, in functions and under TYPE_CHECKING too.
"""

import argparse
import ast
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PLACES = ("operator", "trainer", "e2e", "charts", "docs")
SUFFIXES = {".py", ".sh", ".go", ".tpl", ".j2", ".yaml", ".yml"}
FIXTURES = {"golden", "fixtures"}
"""Directories of fixtures: data of any length."""
GENERATED = "Generated from "
"""In the first line of each generated file."""
FILE_LINES = 400
FUNCTION_LINES = 60
"""From the first decorator to the last line, docstring included."""
STRICT = {"operator/src/torchrun_rendezvous": 250}
"""Folders with a lower limit for files."""


@dataclass(frozen=True, order=True)
class Measured:
    """The length of a file or a function."""

    lines: int
    where: str
    """Path from the root; with the line and the name for a function."""
    limit: int

    def __str__(self) -> str:
        return f"{self.lines} of at most {self.limit} lines, {self.where}"


@dataclass(frozen=True)
class Layout:
    """What was measured in one tree."""

    files: tuple[Measured, ...]
    functions: tuple[Measured, ...]
    cycles: tuple[str, ...]
    namesakes: tuple[str, ...] = ()
    """Test modules that have their name from another one. pytest can import only one of them."""

    def figures(self) -> list[str]:
        """Return the three figures, one per line; folders with a lower limit have a figure of their own."""
        of_files = [
            f"longest file: {max(each for each in self.files if each.limit == limit)}"
            for limit in sorted({each.limit for each in self.files}, reverse=True)
        ]
        longest = max(self.functions, default=Measured(0, "none", FUNCTION_LINES))
        return [*of_files, f"longest function: {longest}", f"import cycles: {len(self.cycles)}"]

    def offenders(self) -> list[str]:
        """Return everything that breaks a limit, the longest first."""
        too_long = [
            f"{what} is too long: {each}"
            for what, measured in (("file", self.files), ("function", self.functions))
            for each in sorted(measured, reverse=True)
            if each.lines > each.limit
        ]
        namesakes = [f"rename it, another test module has this name: {path}" for path in self.namesakes]
        return [*too_long, *(f"import cycle: {cycle}" for cycle in self.cycles), *namesakes]


def measure(root: Path) -> Layout:
    """Measure the sources under a root that is laid out as this repository."""
    sources = list(_sources(root))
    trees = {path: ast.parse(text) for path, text in sources if path.suffix == ".py"}
    return Layout(
        files=tuple(Measured(len(text.splitlines()), *_place(path.relative_to(root))) for path, text in sources),
        functions=tuple(found for path, tree in trees.items() for found in _functions(path.relative_to(root), tree)),
        cycles=tuple(_cycles(root, trees)),
        namesakes=tuple(_namesakes(path.relative_to(root) for path in trees)),
    )


def _sources(root: Path) -> Iterator[tuple[Path, str]]:
    for place in PLACES:
        for path in sorted((root / place).rglob("*")):
            if path.suffix not in SUFFIXES or not path.is_file():
                continue
            folders = path.relative_to(root).parts[:-1]
            if FIXTURES.intersection(folders) or any(folder.startswith(".") for folder in folders):
                continue
            text = path.read_text()
            if GENERATED not in text.partition("\n")[0]:
                yield path, text


def _place(path: Path) -> tuple[str, int]:
    limits = (limit for folder, limit in STRICT.items() if path.is_relative_to(folder))
    return str(path), next(limits, FILE_LINES)


def _functions(path: Path, tree: ast.Module) -> Iterator[Measured]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
            lines = (node.end_lineno or first) - first + 1
            yield Measured(lines, f"{path}:{first} {node.name}", FUNCTION_LINES)


def _namesakes(paths: Iterable[Path]) -> Iterator[str]:
    seen: set[str] = set()
    for path in paths:
        if path.name.startswith("test_") and path.name in seen:
            yield str(path)
        seen.add(path.name)


def _cycles(root: Path, trees: dict[Path, ast.Module]) -> Iterator[str]:
    """Find a cycle, break it, and look for the next."""
    modules = _Modules(trees)
    graph = {path: modules.imported(path, tree) for path, tree in trees.items()}
    while True:
        try:
            TopologicalSorter(graph).prepare()
        except CycleError as error:
            imported_first: list[Path] = error.args[1]
            graph[imported_first[1]].discard(imported_first[0])
            yield " -> ".join(str(path.relative_to(root)) for path in reversed(imported_first))
        else:
            return


class _Modules:
    """Which file a name stands for. A directory without __init__.py is one that imports begin at."""

    def __init__(self, paths: Iterable[Path]) -> None:
        self._files: dict[str, list[Path]] = {}
        self._bases: dict[Path, Path] = {}
        for path in paths:
            base = path.parent
            while (base / "__init__.py").exists():
                base = base.parent
            self._bases[path] = base
            self._files.setdefault(".".join(_parts(base, path)), []).append(path)

    def imported(self, path: Path, tree: ast.Module) -> set[Path]:
        """Return the files that one imports."""
        return {file for choices in self._names(path, tree) for file in self._first(choices, self._bases[path])}

    def _names(self, path: Path, tree: ast.Module) -> Iterator[list[str]]:
        """Yield the possible names of each imported module: `from a import b` means a.b or, if there is none, a."""
        package = [*_parts(self._bases[path], path), *(["__init__"] if path.name == "__init__.py" else [])]
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                yield from ([alias.name] for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                above = package[: -node.level] if node.level else []
                source = ".".join([*above, *([node.module] if node.module else [])])
                yield from ([f"{source}.{alias.name}", source] for alias in node.names)

    def _first(self, names: Iterable[str], base: Path) -> list[Path]:
        for name in names:
            files = self._files.get(name, [])
            near = [file for file in files if self._bases[file] == base]
            if files:
                return near or files
        return []


def _parts(base: Path, path: Path) -> tuple[str, ...]:
    parts = path.relative_to(base).with_suffix("").parts
    return parts[:-1] if parts[-1] == "__init__" else parts


def main() -> int:
    """Print the figures; return 1 if a limit is broken."""
    parser = argparse.ArgumentParser(prog="python -m support.layout", description="Check the layout of the sources.")
    parser.add_argument("root", type=Path, nargs="?", default=ROOT)
    root = parser.parse_args().root.resolve()
    layout = measure(root)
    if not layout.files:
        parser.error(f"{root} has no sources in {', '.join(PLACES)}")
    sys.stdout.write("".join(f"{figure}\n" for figure in layout.figures()))
    sys.stdout.flush()
    offenders = layout.offenders()
    sys.stderr.write("".join(f"{offender}\n" for offender in offenders))
    return 1 if offenders else 0


if __name__ == "__main__":
    sys.exit(main())
