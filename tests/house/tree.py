"""The project's own source, read once: files, syntax trees, imports and literals. The rules stand in the test files.

A rule is a function from one `Source` to the list of its faults, so that each rule can be shown a planted fault too.
"""

import ast
import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support import ROOT

PACKAGES = ("receiver", "reconciler", "holdfast")
"""What is installed."""
PYTHON_FOLDERS = (*PACKAGES, "tests", "bench", "faults")
"""All that is Python; a folder that is not there (yet) has no files."""
_NOT_OURS = {"__pycache__", "var", "dist", "build", "node_modules"}
_OURS_THOUGH_HIDDEN = {".ci", ".gitignore", ".github"}


@dataclass(frozen=True)
class Source:
    """One Python file."""

    path: str
    """Relative to the project, with forward slashes."""
    text: str

    @functools.cached_property
    def tree(self) -> ast.Module:
        """Its syntax tree."""
        return ast.parse(self.text, self.path)

    @property
    def module(self) -> str:
        """Its dotted name."""
        return self.path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")

    @property
    def package(self) -> str:
        """Its first folder."""
        return self.path.partition("/")[0]


def lies_in(path: str, places: tuple[str, ...]) -> bool:
    """Whether a path is one of the places; a place that ends in `/` is a folder with all below it."""
    return any(path.startswith(place) if place.endswith("/") else path == place for place in places)


@functools.cache
def sources(*folders: str) -> tuple[Source, ...]:
    """The Python files of these folders, in order."""
    found = sorted(
        file for folder in folders for file in (ROOT / folder).rglob("*.py") if "__pycache__" not in file.parts
    )
    return tuple(Source(file.relative_to(ROOT).as_posix(), file.read_text("utf-8")) for file in found)


@functools.cache
def text_files() -> tuple[tuple[str, str], ...]:
    """Every text file of the project, (path, text): no virtual environment, no caches, no databases."""
    return tuple(
        (file.relative_to(ROOT).as_posix(), text) for file in sorted(_walk(ROOT)) if (text := _text(file)) is not None
    )


def _walk(folder: Path) -> Iterator[Path]:
    for entry in folder.iterdir():
        if entry.name in _NOT_OURS or (entry.name.startswith(".") and entry.name not in _OURS_THOUGH_HIDDEN):
            continue
        if entry.is_symlink() or entry.name.endswith(".egg-info"):
            continue
        if entry.is_dir():
            yield from _walk(entry)
        elif entry.is_file() and entry.stat().st_size < 5_000_000:
            yield entry


def _text(file: Path) -> str | None:
    content = file.read_bytes()
    if b"\0" in content:
        return None
    try:
        return content.decode()
    except UnicodeDecodeError:
        return None


def imports(source: Source) -> list[tuple[int, str]]:
    """All it imports, anywhere in the file, as (line, dotted name); `from a import b` counts as `a.b`.

    `importlib.import_module("a.b")` and `__import__("a.b")` count too.
    """
    found: list[tuple[int, str]] = []
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = _absolute(source, node)
            found += [(node.lineno, f"{base}.{alias.name}" if base else alias.name) for alias in node.names]
        elif isinstance(node, ast.Call) and dotted(node.func) in ("importlib.import_module", "__import__"):
            first = node.args[0] if node.args else None
            if isinstance(first, ast.Constant) and isinstance(first.value, str):
                found.append((node.lineno, first.value))
    return found


def _absolute(source: Source, node: ast.ImportFrom) -> str:
    if not node.level:
        return node.module or ""
    parts = source.path.removesuffix(".py").split("/")[: -node.level]
    return ".".join([*parts, *([node.module] if node.module else [])])


def begins(name: str, prefix: str) -> bool:
    """Whether a dotted name is the prefix or lies below it."""
    return name == prefix or name.startswith(prefix + ".")


def dotted(node: ast.AST) -> str:
    """`a.b.c` for a name or a chain of attributes; empty for anything else. Calls within are looked through."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        base = dotted(node.value)
        return f"{base}.{node.attr}" if base else ""
    return ""


def literals(source: Source) -> list[tuple[int, str]]:
    """The string literals, those inside f-strings too, as (line, text). Docstrings are prose and are left out."""
    prose = {id(node.value) for node in ast.walk(source.tree) if isinstance(node, ast.Expr)}
    return [
        (node.lineno, node.value)
        for node in ast.walk(source.tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in prose
    ]


def keep(rule: Callable[[Source], list[str]], *folders: str) -> None:
    """Fail with every fault the rule finds in the files of these folders, one a line."""
    none([fault for source in sources(*folders) for fault in rule(source)])


def none(faults: list[str]) -> None:
    """Fail with all of them, one a line."""
    if faults:
        pytest.fail("\n".join(faults), pytrace=False)
